//! The chosen experts of many rows: pairs of a row and an expert are sorted by expert, so that an
//! expert's weights are read once for up to a tile of pairs.

use backend::Result;

use super::experts::{Bank, Rows};
use super::gemm::{Groups, PANELS, THREADS, product, shared_bytes};
use super::round::Values;
use super::weights::{Layout, Matrix, MatrixArgs};
use super::workspace::Workspace;
use crate::gpu::{Args, DevicePtr, Gpu, Kernel, Launch};

const SORT: Kernel = Kernel::new("matmul/experts_sort", "experts_sort");
const TILES: Kernel = Kernel::new("matmul/experts_sort", "experts_tiles");
pub(super) const SUM: Kernel = Kernel::new("matmul/experts_sort", "experts_sum");
const GATED: Kernel = Kernel::new("matmul/experts_sort", "experts_gated");
const ADD: Kernel = Kernel::new("matmul/experts_sort", "experts_add");
/// Experts that the kernel that makes tiles has room for.
pub(super) const MAX_EXPERTS: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct SortArgs {
    ids: DevicePtr,
    starts: DevicePtr,
    pairs: DevicePtr,
    places: DevicePtr,
    n_pairs: u32,
    n_experts: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct TilesArgs {
    starts: DevicePtr,
    tiles: DevicePtr,
    gaps: DevicePtr,
    n_experts: u32,
    columns: u32,
    max_tiles: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct SumArgs {
    pub(super) y: DevicePtr,
    pub(super) places: DevicePtr,
    pub(super) weights: DevicePtr,
    pub(super) last: DevicePtr,
    pub(super) out: DevicePtr,
    pub(super) used: u32,
    pub(super) cols: u32,
    pub(super) n_rows: u32,
    pub(super) unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GatedArgs {
    gate: DevicePtr,
    up: DevicePtr,
    clamp: f32,
    count: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AddArgs {
    out: DevicePtr,
    y: DevicePtr,
    count: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ExpertsArgs {
    m: MatrixArgs,
    up: MatrixArgs,
    x: DevicePtr,
    tiles: DevicePtr,
    pairs: DevicePtr,
    weights: DevicePtr,
    grid: DevicePtr,
    out: DevicePtr,
    x_row_bytes: u32,
    used: u32,
    clamp: f32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `experts_sort.cu`, without padding.
unsafe impl Args for SortArgs {}
// SAFETY: as above; the last field fills the padding.
unsafe impl Args for TilesArgs {}
// SAFETY: as above.
unsafe impl Args for SumArgs {}
// SAFETY: as above.
unsafe impl Args for GatedArgs {}
// SAFETY: as above.
unsafe impl Args for AddArgs {}
// SAFETY: `repr(C)`, as in `experts_gemm.cu`; the last field fills the padding.
unsafe impl Args for ExpertsArgs {}

/// Kernels of a layout, and the pairs that their blocks take.
struct Kernels {
    up: Kernel,
    down: Kernel,
    columns: usize,
}

fn kernels(layout: Layout) -> Option<Kernels> {
    let kernels = |up, down, columns| {
        let kernel = |name| Kernel::new("matmul/experts_gemm", name);
        Some(Kernels { up: kernel(up), down: kernel(down), columns })
    };
    match layout {
        Layout::Q8_0 => kernels("up_q8_0", "down_q8_0", 32),
        Layout::Mxfp4 => kernels("up_mxfp4", "down_mxfp4", 64),
        Layout::Q2K => kernels("up_q2_k", "down_q2_k", 64),
        Layout::Q4K => kernels("up_q4_k", "down_q4_k", 64),
        Layout::Q6K => kernels("up_q6_k", "down_q6_k", 64),
        Layout::Iq2Xxs => kernels("up_iq2_xxs", "down_iq2_xxs", 64),
        Layout::F32 | Layout::F16 | Layout::BF16 => None,
    }
}

/// Tiles that `pairs` pairs of `n_experts` experts can make.
pub(super) fn max_tiles(pairs: usize, n_experts: usize, columns: usize) -> usize {
    pairs / columns + n_experts.min(pairs)
}

/// Narrowest tile of all layouts: the workspace is sized by it.
pub(super) const COLUMNS_MIN: usize = 32;

/// Whether the sorted kernels can compute these experts.
pub(super) fn can(gpu: &Gpu, bank: &Bank<'_>) -> bool {
    let fits = |layout| {
        kernels(layout)
            .is_some_and(|k| shared_bytes(layout, k.columns) <= gpu.description().shared_max)
    };
    bank.routing.is_some()
        && bank.gate.layout() == bank.up.layout()
        && bank.gate.experts() <= MAX_EXPERTS
        && fits(bank.gate.layout())
        && fits(bank.down.layout())
}

/// Sorts pairs by expert, in their order within each.
pub(super) fn sort(
    gpu: &Gpu,
    ws: &Workspace,
    ids: DevicePtr,
    n_pairs: usize,
    n_experts: usize,
) -> Result<()> {
    let args = SortArgs {
        ids,
        starts: ws.starts(),
        pairs: ws.sorted_pairs(),
        places: ws.places(),
        n_pairs: n_pairs as u32,
        n_experts: n_experts as u32,
    };
    gpu.launch(&SORT, Launch::new(n_experts, 256), &args)
}

/// Cuts sorted pairs into tiles of `columns`, of which there are `max_tiles` at most; slots less places go to
/// `gaps`, unless that is null.
pub(super) fn cut(
    gpu: &Gpu,
    ws: &Workspace,
    n_experts: usize,
    (columns, max_tiles): (usize, usize),
    gaps: DevicePtr,
) -> Result<()> {
    let args = TilesArgs {
        starts: ws.starts(),
        tiles: ws.tiles(),
        gaps,
        n_experts: n_experts as u32,
        columns: columns as u32,
        max_tiles: max_tiles as u32,
        unused: 0,
    };
    gpu.launch(&TILES, Launch::new(1, 256), &args)
}

/// Sorted pairs of one call.
struct Sorted<'a> {
    gpu: &'a Gpu,
    ws: &'a Workspace,
    n_experts: usize,
    n_pairs: usize,
    used: usize,
    weights: DevicePtr,
    clamp: f32,
}

/// `out[r] = Σ_i expert_{ids[r][i]}(x[r])` for `n_rows` rows from `first` on.
pub(super) fn routed(rows: &Rows<'_>, bank: &Bank<'_>, first: usize, n_rows: usize) -> Result<()> {
    let (gpu, ws) = (rows.gpu, rows.ws);
    let (ids, weights) = bank.routing_from(first);
    let n_pairs = n_rows * bank.used();
    let sorted = Sorted {
        gpu,
        ws,
        n_experts: bank.gate.experts(),
        n_pairs,
        used: bank.used(),
        weights,
        clamp: bank.clamp,
    };
    sort(gpu, ws, ids, n_pairs, sorted.n_experts)?;
    let x = rows.values(first, n_rows);
    x.round(gpu, ws, [bank.gate.layout()].into_iter())?;
    sorted.product(bank.gate, Some(bank.up), &x, ws.hidden())?;
    let h = hidden(ws, bank.gate.rows(), n_pairs);
    h.round(gpu, ws, [bank.down.layout()].into_iter())?;
    sorted.product(bank.down, None, &h, ws.results())?;
    let cols = bank.down.rows();
    let sum = SumArgs {
        y: ws.results(),
        places: ws.places(),
        weights: DevicePtr::NULL,
        last: DevicePtr::NULL,
        out: rows.out_from(first),
        used: bank.used() as u32,
        cols: cols as u32,
        n_rows: n_rows as u32,
        unused: 0,
    };
    gpu.launch(&SUM, Launch::grid2(cols.div_ceil(256), n_rows, 256), &sum)
}

/// `out[r] += shared(x[r])`, with the kernels of plain products.
pub(super) fn add_shared(
    rows: &Rows<'_>,
    bank: &Bank<'_>,
    first: usize,
    n_rows: usize,
) -> Result<()> {
    let (gpu, ws) = (rows.gpu, rows.ws);
    let (inner, cols) = (bank.gate.rows(), bank.down.rows());
    let whole = Groups { all: 1, first: 0, n: 1 };
    let x = rows.values(first, n_rows);
    x.round(gpu, ws, [bank.gate.layout(), bank.up.layout()].into_iter())?;
    // The routed experts are done with both buffers.
    let up = ws.hidden().add(n_rows * inner * 4);
    product(gpu, ws, &x, bank.gate, (ws.hidden(), inner), &whole)?;
    product(gpu, ws, &x, bank.up, (up, inner), &whole)?;
    gate(gpu, (ws.hidden(), up), bank.clamp, n_rows * inner)?;
    let h = hidden(ws, inner, n_rows);
    h.round(gpu, ws, [bank.down.layout()].into_iter())?;
    product(gpu, ws, &h, bank.down, (ws.results(), cols), &whole)?;
    let count = (n_rows * cols) as u32;
    let add = AddArgs { out: rows.out_from(first), y: ws.results(), count, unused: 0 };
    gpu.launch(&ADD, Launch::new((n_rows * cols).div_ceil(256), 256), &add)
}

/// `gate = silu(min(gate, clamp)) * clamp(up)`.
pub(super) fn gate(
    gpu: &Gpu,
    (gate, up): (DevicePtr, DevicePtr),
    clamp: f32,
    count: usize,
) -> Result<()> {
    let args = GatedArgs { gate, up, clamp, count: count as u32 };
    gpu.launch(&GATED, Launch::new(count.div_ceil(256), 256), &args)
}

/// The first rows of the workspace's gated activations.
fn hidden(ws: &Workspace, inner: usize, n_rows: usize) -> Values {
    Values { x: ws.hidden(), stride: inner, cols: inner, n_slices: 1, n_rows, halves: false }
}

impl Sorted<'_> {
    /// The gated product of two matrices with the rows of pairs, or the product of one with what lies
    /// at their places.
    fn product(&self, m: &Matrix, up: Option<&Matrix>, x: &Values, out: DevicePtr) -> Result<()> {
        let (gpu, ws, layout) = (self.gpu, self.ws, m.layout());
        // `can` has looked.
        let Some(Kernels { up: gated, down, columns }) = kernels(layout) else {
            unreachable!("{}: no kernel for sorted experts", m.name())
        };
        let tiles = max_tiles(self.n_pairs, self.n_experts, columns);
        cut(gpu, ws, self.n_experts, (columns, tiles), DevicePtr::NULL)?;
        let source = x.source(ws, layout, 0);
        let args = ExpertsArgs {
            m: m.args(),
            up: up.map(Matrix::args).unwrap_or_default(),
            x: source.x,
            tiles: ws.tiles(),
            pairs: ws.sorted_pairs(),
            weights: self.weights,
            grid: ws.grid(),
            out,
            x_row_bytes: source.row_bytes,
            used: self.used as u32,
            clamp: self.clamp,
            unused: 0,
        };
        // The gated product spends half of a block's panels on either matrix.
        let (kernel, panels) = if up.is_some() { (gated, PANELS / 2) } else { (down, PANELS) };
        let blocks = m.group_panels(1).div_ceil(panels);
        let launch = Launch::grid2(tiles, blocks, THREADS).shared(shared_bytes(layout, columns));
        gpu.launch(&kernel, launch, &args)
    }
}
