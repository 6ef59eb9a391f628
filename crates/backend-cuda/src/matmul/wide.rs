//! Products with many rows on sm_90: the tensor-core instructions of warpgroups, with weights that become
//! f16 in registers and activations rounded to f16 under a power of two a row.

use backend::{Act, Result};

use super::CHUNK_COLS;
use super::experts::{Bank, Rows};
use super::gemm::Groups;
use super::round::Values;
use super::sorted::{MAX_EXPERTS, SUM, SumArgs, cut, max_tiles, sort};
use super::weights::{Layout, Matrix, MatrixArgs};
use super::workspace::Workspace;
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::rope_tail::RopeArgs;

const HALVES: Kernel = Kernel::new("matmul/round", "halves_rows");
const TURNED: Kernel = Kernel::new("matmul/round", "halves_turned");
const THREADS: u32 = 256;
/// Panels of 16 weight rows that a block computes.
const PANELS: usize = 16;
/// Bytes of a row of 64 f16 values.
const STEP_BYTES: usize = 128;
/// Activation rows of a wide block, and what rows are padded to.
const WIDE: usize = 128;
const NARROW: usize = 64;
/// Pairs of a tile of `experts_broad.cu`, and how many an expert has on average where it is worth it.
const BROAD: usize = 256;
const BROAD_MEAN: usize = 80;
/// Weights are multiplied by it on their way to f16 (`halves.cuh`).
const GAIN: f32 = 64.0;
/// Jobs of a launch, weight and activation rows of a block, and its shared memory (`gemm_wide_f16.cu`).
const F16_JOBS: usize = 8;
const F16_ROWS: usize = 128;
const F16_COLUMNS: usize = 64;
const F16_SHARED: usize = 5 * 2 * F16_COLUMNS * STEP_BYTES + 1024;
/// Largest f16 that gated values may become.
const HIDDEN_MAX: f32 = 60_000.0;

#[repr(C)]
#[derive(Clone, Copy)]
struct HalvesArgs {
    x: DevicePtr,
    out: DevicePtr,
    rest: DevicePtr,
    factors: DevicePtr,
    places: DevicePtr,
    ids: DevicePtr,
    gaps: DevicePtr,
    stride: u32,
    cols: u32,
    steps: u32,
    rows: u32,
    used: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct WideArgs {
    m: MatrixArgs,
    x: DevicePtr,
    factors: DevicePtr,
    out: DevicePtr,
    grid: DevicePtr,
    x_step: u64,
    x_rows: u32,
    out_stride: u32,
    groups: u32,
    first_group: u32,
    n_rows: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ExpertsWideArgs {
    m: MatrixArgs,
    up: MatrixArgs,
    x: DevicePtr,
    factors: DevicePtr,
    tiles: DevicePtr,
    grid: DevicePtr,
    out: DevicePtr,
    x_step: u64,
    out_step: u64,
    clamp: f32,
    scale: f32,
    n_rows: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct F16Job {
    w: DevicePtr,
    out: DevicePtr,
    rows: u32,
    out_stride: u32,
    first_block: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct F16Args {
    jobs: [F16Job; F16_JOBS],
    x: DevicePtr,
    rest: DevicePtr,
    factors: DevicePtr,
    x_step: u64,
    n_jobs: u32,
    cols: u32,
    n_rows: u32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `gemm_wide_f16.cu`; the last field fills the padding.
unsafe impl Args for F16Args {}
#[repr(C)]
#[derive(Clone, Copy)]
struct TurnedArgs {
    halves: HalvesArgs,
    rope: RopeArgs,
    step: DevicePtr,
    head_dim: u32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `round.cu`; the last field fills the padding.
unsafe impl Args for TurnedArgs {}
// SAFETY: `repr(C)`, as in `round.cu`; the last field fills the padding.
unsafe impl Args for HalvesArgs {}
// SAFETY: `repr(C)`, as in `gemm_wide.cu`; the last field fills the padding.
unsafe impl Args for WideArgs {}
// SAFETY: `repr(C)`, as in `experts_wide.cu`; the last field fills the padding.
unsafe impl Args for ExpertsWideArgs {}

/// Whether a device has the instructions.
pub(crate) fn has(gpu: &Gpu) -> bool {
    gpu.arch() == 90
}

/// Whether products with a layout's weights can be computed here.
pub(super) fn can(gpu: &Gpu, layout: Layout) -> bool {
    has(gpu)
        && shared_bytes(layout, WIDE).is_some_and(|bytes| bytes <= gpu.description().shared_max)
}

/// Stages of activations (`gemm_wide.cu`).
fn stages(layout: Layout, columns: usize) -> usize {
    match layout {
        Layout::Q2K | Layout::Iq2Xxs if columns == NARROW => 8,
        _ => 4,
    }
}

/// Bytes of shared memory of a block (`wide.cuh`).
fn shared_bytes(layout: Layout, columns: usize) -> Option<usize> {
    let panels = if columns == BROAD { PANELS / 2 } else { PANELS };
    let weights = 2 * panels * layout.chunk_bytes()?;
    Some(stages(layout, columns) * columns * STEP_BYTES + weights + 1024)
}

/// The kernels of a layout: a product, and what experts need.
struct Kernels {
    product: Kernel,
    up: Kernel,
    down: Kernel,
}

fn kernels(layout: Layout, columns: usize) -> Option<Kernels> {
    macro_rules! named {
        ($name:literal) => {
            match columns {
                BROAD => ("", concat!("up_", $name, "_256"), concat!("down_", $name, "_256")),
                WIDE => (
                    concat!("wide_", $name, "_128"),
                    concat!("up_", $name, "_128"),
                    concat!("down_", $name, "_128"),
                ),
                _ => (
                    concat!("wide_", $name, "_64"),
                    concat!("up_", $name, "_64"),
                    concat!("down_", $name, "_64"),
                ),
            }
        };
    }
    let (product, up, down) = match layout {
        Layout::Q8_0 => named!("q8_0"),
        Layout::Mxfp4 => named!("mxfp4"),
        Layout::Q2K => named!("q2_k"),
        Layout::Q4K => named!("q4_k"),
        Layout::Q6K => named!("q6_k"),
        Layout::Iq2Xxs => named!("iq2_xxs"),
        Layout::F32 | Layout::F16 | Layout::BF16 => return None,
    };
    let module = if columns == BROAD { "matmul/experts_broad" } else { "matmul/experts_wide" };
    let experts = |name| Kernel::new(module, name);
    Some(Kernels {
        product: Kernel::new("matmul/gemm_wide", product),
        up: experts(up),
        down: experts(down),
    })
}

/// Rows as f16: `[slice][64 columns][row]`; what the rounding took away, if it was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    x: DevicePtr,
    rest: DevicePtr,
    factors: DevicePtr,
    rows: usize,
}

impl Halves {
    /// Where they and their factors lie, and for how many rows there is room.
    pub(crate) fn place(&self) -> (DevicePtr, DevicePtr, usize) {
        (self.x, self.factors, self.rows)
    }

    fn step_bytes(&self) -> u64 {
        (self.rows * STEP_BYTES) as u64
    }
}

/// Bytes of the f16 rows of `n_rows` rows of `chunks` times 256 columns, slices and padding counted.
pub(super) fn halves_bytes(n_rows: usize, chunks: usize) -> usize {
    n_rows.next_multiple_of(WIDE) * chunks * 4 * STEP_BYTES
}

/// Slots of f16 rows for sorted pairs: each expert's begin at a multiple of eight, and a tile may reach
/// beyond the last.
pub(super) fn slots(n_pairs: usize, n_experts: usize) -> usize {
    (n_pairs + 7 * n_experts.min(n_pairs)).next_multiple_of(8) + BROAD
}

/// Whether the products of F16 weights with rounded rows, which come with the rest, can be computed here.
pub(super) fn can_f16(gpu: &Gpu, ws: &Workspace, w: &Matrix, values: &Values) -> bool {
    has(gpu)
        && gpu.description().shared_max >= F16_SHARED
        && w.layout() == Layout::F16
        && values.n_slices == 1
        && values.cols.is_multiple_of(64)
        && halves_bytes(values.n_rows, values.chunks()) <= ws.rest_bytes()
}

/// Rounds rows; `None` when they do not fit into the workspace. `rest`: what that takes away is kept.
pub(super) fn round(
    gpu: &Gpu,
    ws: &Workspace,
    values: &Values,
    rest: bool,
) -> Result<Option<Halves>> {
    let chunks = values.chunks();
    let rows = values.n_rows.next_multiple_of(WIDE);
    let bytes = halves_bytes(values.n_rows, chunks * values.n_slices);
    if bytes > ws.halves_bytes() || rows * values.n_slices > ws.factors_len() {
        return Ok(None);
    }
    let rest = if rest { ws.rest() } else { DevicePtr::NULL };
    let halves = Halves { x: ws.halves(), rest, factors: ws.factors(), rows };
    let pairs = (DevicePtr::NULL, DevicePtr::NULL, DevicePtr::NULL, 1);
    launch_halves(gpu, values, &halves, pairs, None)?;
    Ok(Some(halves))
}

/// A rotation of heads on the way to f16.
pub(crate) struct Turn {
    pub(crate) rope: RopeArgs,
    pub(crate) step: DevicePtr,
    pub(crate) head_dim: usize,
}

/// Where the f16 rows of heads may go for the products that [`out_of_heads`] makes of them.
pub(crate) fn halves_of_heads(
    gpu: &Gpu,
    ws: &Workspace,
    (a, b): (&Matrix, &Matrix),
    n_groups: usize,
    n_rows: usize,
) -> Option<Halves> {
    let rows = n_rows.next_multiple_of(WIDE);
    let chunks = (a.cols().div_ceil(CHUNK_COLS) * n_groups).max(a.rows().div_ceil(CHUNK_COLS));
    let fits = halves_bytes(n_rows, chunks) <= ws.halves_bytes()
        && rows * n_groups <= ws.factors_len()
        && n_rows <= ws.result_rows(a.rows());
    (fits && can(gpu, a.layout()) && can(gpu, b.layout())).then(|| Halves {
        x: ws.halves(),
        rest: DevicePtr::NULL,
        factors: ws.factors(),
        rows,
    })
}

/// `y = b · (groups of a · x)`.
pub(crate) fn out_of_heads(
    gpu: &Gpu,
    ws: &Workspace,
    y: &Act<Buffer>,
    x: &Halves,
    (a, b): (&Matrix, &Matrix),
    n_groups: usize,
    n_rows: usize,
) -> Result<()> {
    let low = Values {
        x: ws.results(),
        stride: a.rows(),
        cols: a.rows(),
        n_slices: 1,
        n_rows,
        halves: false,
    };
    let groups = Groups { all: n_groups, first: 0, n: n_groups };
    product(gpu, ws, (x, n_rows), a, (ws.results(), a.rows()), &groups)?;
    let pairs = (DevicePtr::NULL, DevicePtr::NULL, DevicePtr::NULL, 1);
    launch_halves(gpu, &low, x, pairs, None)?;
    let whole = Groups { all: 1, first: 0, n: 1 };
    product(gpu, ws, (x, n_rows), b, (y.buf.ptr(), y.cols), &whole)
}

/// `y = b · (groups of a · turned heads)`; false where the kernels or the workspace do not suffice.
pub(crate) fn turned_out(
    gpu: &Gpu,
    ws: &Workspace,
    (y, heads): (&Act<Buffer>, &Act<Buffer>),
    weights: (&Matrix, &Matrix),
    n_groups: usize,
    turn: &Turn,
    n_rows: usize,
) -> Result<bool> {
    let cols = weights.0.cols();
    let whole = turn.head_dim.is_multiple_of(8)
        && turn.rope.dim().is_multiple_of(8)
        && cols.is_multiple_of(turn.head_dim);
    let Some(x) = halves_of_heads(gpu, ws, weights, n_groups, n_rows).filter(|_| whole) else {
        return Ok(false);
    };
    let (x_values, stride) = (heads.buf.ptr(), heads.cols);
    let values = Values { x: x_values, stride, cols, n_slices: n_groups, n_rows, halves: false };
    let pairs = (DevicePtr::NULL, DevicePtr::NULL, DevicePtr::NULL, 1);
    launch_halves(gpu, &values, &x, pairs, Some(turn))?;
    out_of_heads(gpu, ws, y, &x, weights, n_groups, n_rows)?;
    Ok(true)
}

/// `pairs`: places, ids and gaps of the pairs of every row, and how many those are.
fn launch_halves(
    gpu: &Gpu,
    values: &Values,
    to: &Halves,
    (places, ids, gaps, used): (DevicePtr, DevicePtr, DevicePtr, usize),
    turn: Option<&Turn>,
) -> Result<()> {
    let args = HalvesArgs {
        x: values.x,
        out: to.x,
        rest: to.rest,
        factors: to.factors,
        places,
        ids,
        gaps,
        stride: values.stride as u32,
        cols: values.cols as u32,
        steps: (4 * values.chunks()) as u32,
        rows: to.rows as u32,
        used: used as u32,
        unused: 0,
    };
    let launch = Launch::grid2(values.n_rows, values.n_slices, 256);
    match turn {
        None => gpu.launch(&HALVES, launch, &args),
        Some(turn) => {
            let args = TurnedArgs {
                halves: args,
                rope: turn.rope,
                step: turn.step,
                head_dim: turn.head_dim as u32,
                unused: 0,
            };
            gpu.launch(&TURNED, launch, &args)
        }
    }
}

/// `out[r] = w · x[r]` of rounded rows; `out` is where the first goes, and how far rows are apart.
pub(super) fn product(
    gpu: &Gpu,
    ws: &Workspace,
    (x, n_rows): (&Halves, usize),
    w: &Matrix,
    out: (DevicePtr, usize),
    groups: &Groups,
) -> Result<()> {
    let row_blocks = w.group_panels(groups.all).div_ceil(PANELS);
    // Narrow blocks where wide ones would leave multiprocessors idle.
    let wide = row_blocks * groups.n * n_rows.div_ceil(WIDE) >= gpu.sms() && n_rows > NARROW;
    let columns = if wide { WIDE } else { NARROW };
    // `can` has looked.
    let (Some(kernels), Some(shared)) =
        (kernels(w.layout(), columns), shared_bytes(w.layout(), columns))
    else {
        unreachable!("{}: no wide kernel", w.name())
    };
    let args = WideArgs {
        m: w.args(),
        x: x.x,
        factors: x.factors,
        out: out.0,
        grid: ws.grid(),
        x_step: x.step_bytes(),
        x_rows: x.rows as u32,
        out_stride: out.1 as u32,
        groups: groups.all as u32,
        first_group: groups.first as u32,
        n_rows: n_rows as u32,
        unused: 0,
    };
    let grid = Launch::grid3(n_rows.div_ceil(columns), row_blocks, groups.n, THREADS);
    gpu.launch(&kernels.product, grid.shared(shared), &args)
}

/// Products of F16 matrices with rounded rows; an output is a first row's place and how far rows are apart.
pub(super) fn products_f16(
    gpu: &Gpu,
    (x, n_rows, cols): (&Halves, usize, usize),
    jobs: &[(&Matrix, (DevicePtr, usize))],
) -> Result<()> {
    for jobs in jobs.chunks(F16_JOBS) {
        let mut args = F16Args {
            jobs: [F16Job::default(); F16_JOBS],
            x: x.x,
            rest: x.rest,
            factors: x.factors,
            x_step: x.step_bytes(),
            n_jobs: jobs.len() as u32,
            cols: cols as u32,
            n_rows: n_rows as u32,
            unused: 0,
        };
        let mut blocks = 0;
        for (job, (w, out)) in args.jobs.iter_mut().zip(jobs) {
            *job = F16Job {
                w: w.args().w,
                out: out.0,
                rows: w.rows() as u32,
                out_stride: out.1 as u32,
                first_block: blocks as u32,
                unused: 0,
            };
            blocks += w.rows().div_ceil(F16_ROWS);
        }
        let kernel = Kernel::new("matmul/gemm_wide_f16", "wide_f16");
        let grid = Launch::grid2(n_rows.div_ceil(F16_COLUMNS), blocks, THREADS);
        gpu.launch(&kernel, grid.shared(F16_SHARED), &args)?;
    }
    Ok(())
}

/// Whether a bank's products, gated in between, can be computed with f16 in between.
pub(super) fn can_experts(gpu: &Gpu, bank: &Bank<'_>) -> bool {
    bank.gate.layout() == bank.up.layout()
        && bank.gate.experts() <= MAX_EXPERTS
        && can(gpu, bank.gate.layout())
        && can(gpu, bank.down.layout())
        && bank.clamp > 0.0
        && bank.clamp * bank.clamp <= HIDDEN_MAX
}

/// The power of two under which gated values fill f16.
fn hidden_scale(clamp: f32) -> f32 {
    (HIDDEN_MAX / (clamp * clamp)).log2().floor().min(20.0).exp2()
}

/// Whether the workspace holds `n_rows` rows of a bank's pairs at once.
pub(super) fn fits(ws: &Workspace, bank: &Bank<'_>, shared: bool, n_rows: usize) -> bool {
    let n_pairs = n_rows * bank.used();
    let slots = slots(n_pairs, bank.gate.experts());
    let bytes = |chunks: usize| slots * chunks * 4 * STEP_BYTES;
    bytes(bank.gate.chunks()) <= ws.halves_bytes()
        && bytes(bank.down.chunks()) <= ws.hidden_halves_bytes()
        && slots <= ws.factors_len()
        && n_pairs + if shared { n_rows } else { 0 } <= ws.result_rows(bank.down.rows())
}

/// `out[r] = Σ_i w_i expert_{ids[r][i]}(x[r]) + shared(x[r])` for `n_rows` rows from `first` on.
pub(super) fn mixture(
    rows: &Rows<'_>,
    bank: &Bank<'_>,
    shared: Option<&Bank<'_>>,
    first: usize,
    n_rows: usize,
) -> Result<()> {
    let (gpu, ws) = (rows.gpu, rows.ws);
    let (ids, weights) = bank.routing_from(first);
    let (n_pairs, n_experts) = (n_rows * bank.used(), bank.gate.experts());
    sort(gpu, ws, ids, n_pairs, n_experts)?;
    let columns = match n_pairs / n_experts.max(1) {
        BROAD_MEAN.. if is_broad(gpu, bank) => BROAD,
        // An expert's pairs seldom fill whole wide tiles.
        mean if mean >= 4 * NARROW => WIDE,
        _ => NARROW,
    };
    let tiles = max_tiles(n_pairs, n_experts, columns);
    cut(gpu, ws, n_experts, (columns, tiles), ws.gaps())?;
    let x = rows.values(first, n_rows);
    let sorted = Halves {
        x: ws.halves(),
        rest: DevicePtr::NULL,
        factors: ws.factors(),
        rows: slots(n_pairs, n_experts),
    };
    launch_halves(gpu, &x, &sorted, (ws.places(), ids, ws.gaps(), bank.used()), None)?;
    let some = Some(ws.tiles());
    gated(gpu, ws, bank, &sorted, (some, tiles, columns, n_pairs), ws.results())?;

    let cols = bank.down.rows();
    let last = match shared {
        None => DevicePtr::NULL,
        Some(shared) => {
            let out = ws.results().add(n_pairs * cols * 4);
            // `fits` has looked: these rows are fewer.
            if let Some(x) = round(gpu, ws, &x, false)? {
                let columns = match n_rows {
                    BROAD.. if is_broad(gpu, shared) => BROAD,
                    _ => WIDE,
                };
                let tiles = n_rows.div_ceil(columns);
                gated(gpu, ws, shared, &x, (None, tiles, columns, n_rows), out)?;
            }
            out
        }
    };
    let sum = SumArgs {
        y: ws.results(),
        places: ws.places(),
        weights,
        last,
        out: rows.out_from(first),
        used: bank.used() as u32,
        cols: cols as u32,
        n_rows: n_rows as u32,
        unused: 0,
    };
    gpu.launch(&SUM, Launch::grid2(cols.div_ceil(256), n_rows, 256), &sum)
}

/// Whether there are kernels for the tiles of 256 pairs of a bank.
fn is_broad(gpu: &Gpu, bank: &Bank<'_>) -> bool {
    [bank.gate.layout(), bank.down.layout()].into_iter().all(|layout| {
        let fits = |bytes| bytes <= gpu.description().shared_max;
        layout != Layout::Q6K && shared_bytes(layout, BROAD).is_some_and(fits)
    })
}

/// Gate and up, and down: `tiles` and how many, their columns, and how many rows there are.
fn gated(
    gpu: &Gpu,
    ws: &Workspace,
    bank: &Bank<'_>,
    x: &Halves,
    (tiles, n_tiles, columns, n_rows): (Option<DevicePtr>, usize, usize, usize),
    out: DevicePtr,
) -> Result<()> {
    let scale = hidden_scale(bank.clamp);
    let step = x.step_bytes();
    let args = ExpertsWideArgs {
        m: bank.gate.args(),
        up: bank.up.args(),
        x: x.x,
        factors: x.factors,
        tiles: tiles.unwrap_or(DevicePtr::NULL),
        grid: ws.grid(),
        out: ws.hidden_halves(),
        x_step: step,
        out_step: step,
        clamp: bank.clamp,
        scale,
        n_rows: n_rows as u32,
        unused: 0,
    };
    let launch = |m: &Matrix, blocks: usize, up: bool, args: &ExpertsWideArgs| {
        let (Some(kernels), Some(shared)) =
            (kernels(m.layout(), columns), shared_bytes(m.layout(), columns))
        else {
            unreachable!("{}: no wide kernel", m.name())
        };
        let kernel = if up { kernels.up } else { kernels.down };
        gpu.launch(&kernel, Launch::grid2(blocks, n_tiles, THREADS).shared(shared), args)
    };
    // What lies behind the last inner value becomes zeros, to the end of the chunk.
    let panels = if columns == BROAD { PANELS / 2 } else { PANELS };
    launch(bank.gate, bank.down.chunks() * 2 * PANELS / panels, true, &args)?;
    let down = ExpertsWideArgs {
        m: bank.down.args(),
        up: MatrixArgs::default(),
        x: ws.hidden_halves(),
        out,
        scale: 1.0 / (GAIN * scale),
        ..args
    };
    launch(bank.down, bank.down.group_panels(1).div_ceil(panels), false, &down)
}
