//! The chosen experts of more rows than one token or a draft has, and fewer than fill tiles of the kernels for many:
//! pairs are sorted by expert, so that an expert's weights are read once for up to four of them.

use backend::Result;

use super::experts::{Bank, Rows};
use super::gemv::{Job, products_at};
use super::ring;
use super::round::Values;
use super::sorted::{self, MAX_EXPERTS, SUM, SumArgs};
use super::weights::{Layout, MatrixArgs};
use super::workspace::{RECORD_32, RECORD_256, Workspace};
use crate::gpu::{Args, DevicePtr, Gpu, Kernel, Launch};

/// Rows up to which this is quicker than the kernels for many, and from which on it is quicker than pair by pair.
const ROWS: usize = 64;
pub(super) const ROWS_MIN: usize = 4;
/// Pairs of a tile, as in `cuda/matmul/experts_few.cu`.
const COLUMNS: usize = 4;
const PLACES: Kernel = Kernel::new("matmul/experts_few", "experts_places");

#[repr(C)]
#[derive(Clone, Copy)]
struct FewArgs {
    m: MatrixArgs,
    up: MatrixArgs,
    x: DevicePtr,
    tiles: DevicePtr,
    pairs: DevicePtr,
    weights: DevicePtr,
    grid: DevicePtr,
    out: DevicePtr,
    row_bytes: u32,
    max_tiles: u32,
    clamp: f32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PlaceArgs {
    x: DevicePtr,
    out: DevicePtr,
    pairs: DevicePtr,
    starts: DevicePtr,
    row_bytes: u32,
    used: u32,
    n_experts: u32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `experts_few.cu`; the last field fills the padding.
unsafe impl Args for FewArgs {}
// SAFETY: as above.
unsafe impl Args for PlaceArgs {}

/// Kernels of a layout.
fn kernels(layout: Layout) -> Option<[Kernel; 2]> {
    let names = match layout {
        Layout::Iq2Xxs => ["few_up_iq2_xxs", "few_down_iq2_xxs"],
        Layout::Q2K => ["few_up_q2_k", "few_down_q2_k"],
        Layout::Q4K => ["few_up_q4_k", "few_down_q4_k"],
        Layout::Mxfp4 => ["few_up_mxfp4", "few_down_mxfp4"],
        _ => return None,
    };
    Some(names.map(|name| Kernel::new("matmul/experts_few", name)))
}

/// Tiles of so many rows at most: what the workspace holds.
pub(super) fn tiles(rows: usize, used: usize, n_experts: usize) -> usize {
    sorted::max_tiles(rows.min(ROWS) * used, n_experts, COLUMNS)
}

/// Whether [`mixture`] can do it.
pub(super) fn can(
    rows: &Rows<'_>,
    bank: &Bank<'_>,
    shared: Option<&Bank<'_>>,
    n_rows: usize,
) -> bool {
    let (ws, n_pairs) = (rows.ws, n_rows * bank.used());
    let matrices = [bank.gate, bank.up, bank.down];
    let records = n_pairs * bank.down.chunks();
    // Placed records lie where the results will.
    let placed = bank.gate.chunks() * RECORD_256.max(RECORD_32);
    bank.routing.is_some()
        && (ROWS_MIN..=ROWS).contains(&n_rows)
        && bank.gate.layout() == bank.up.layout()
        && bank.gate.experts() <= MAX_EXPERTS
        && matrices.iter().all(|m| kernels(m.layout()).is_some())
        && matrices
            .into_iter()
            .all(|m| ring::has(rows.gpu, ring::few_experts_shared(m.layout()), std::iter::once(m)))
        && records <= ws.records()
        && placed <= bank.down.rows() * 4
        && n_pairs + n_rows <= ws.result_rows(bank.down.rows())
        && n_pairs.max(2 * n_rows) <= ws.pairs(bank.gate.rows())
        && shared.is_none_or(|s| s.gate.rows() == bank.gate.rows())
}

/// `out[r] = Σ_i w_i expert_{ids[r][i]}(x[r]) + shared(x[r])` for all rows.
pub(super) fn mixture(
    rows: &Rows<'_>,
    bank: &Bank<'_>,
    shared: Option<&Bank<'_>>,
    n_rows: usize,
) -> Result<()> {
    let (gpu, ws) = (rows.gpu, rows.ws);
    let (ids, weights) = bank.routing_from(0);
    let (n_pairs, n_experts) = (n_rows * bank.used(), bank.gate.experts());
    let x = rows.values(0, n_rows);
    let layouts = [bank.gate.layout()].into_iter();
    x.round(gpu, ws, layouts.chain(shared.iter().flat_map(|s| [s.gate.layout(), s.up.layout()])))?;
    sorted::sort(gpu, ws, ids, n_pairs, n_experts)?;
    let max_tiles = sorted::max_tiles(n_pairs, n_experts, COLUMNS);
    sorted::cut(gpu, ws, n_experts, (COLUMNS, max_tiles), DevicePtr::NULL)?;
    let source = x.source(ws, bank.gate.layout(), 0);
    // The results come later.
    let placed = ws.results();
    let place = PlaceArgs {
        x: source.x,
        out: placed,
        pairs: ws.sorted_pairs(),
        starts: ws.starts(),
        row_bytes: source.row_bytes,
        used: bank.used() as u32,
        n_experts: n_experts as u32,
        unused: 0,
    };
    gpu.launch(&PLACES, Launch::new(n_pairs, 256), &place)?;
    // They are there for the shared expert's products as well, which make others in their place.
    ws.leave_records(x.x, (1, x.cols), n_rows);
    let cols = bank.down.rows();
    let last = match shared {
        None => DevicePtr::NULL,
        Some(shared) => {
            let out = ws.results().add(n_pairs * cols * 4);
            self::shared(rows, shared, n_rows, out)?;
            out
        }
    };

    let up = FewArgs {
        m: bank.gate.args(),
        up: bank.up.args(),
        x: placed,
        tiles: ws.tiles(),
        pairs: ws.sorted_pairs(),
        weights,
        grid: ws.grid(),
        out: ws.hidden(),
        row_bytes: source.row_bytes,
        max_tiles: max_tiles as u32,
        clamp: bank.clamp,
        unused: 0,
    };
    launch(gpu, bank.gate.layout(), 0, &up)?;
    let h = hidden(ws, bank.gate.rows(), n_pairs);
    h.round(gpu, ws, [bank.down.layout()].into_iter())?;
    let source = h.source(ws, bank.down.layout(), 0);
    let args = bank.down.args();
    let (x, row_bytes) = (source.x, source.row_bytes);
    let down = FewArgs { m: args, up: args, x, out: ws.results(), row_bytes, ..up };
    launch(gpu, bank.down.layout(), 1, &down)?;
    let sum = SumArgs {
        y: ws.results(),
        places: ws.places(),
        weights: DevicePtr::NULL,
        last,
        out: rows.out_from(0),
        used: bank.used() as u32,
        cols: cols as u32,
        n_rows: n_rows as u32,
        unused: 0,
    };
    gpu.launch(&SUM, Launch::grid2(cols.div_ceil(256), n_rows, 256), &sum)
}

fn launch(gpu: &Gpu, layout: Layout, which: usize, args: &FewArgs) -> Result<()> {
    // `can` has looked.
    let Some(kernels) = kernels(layout) else { unreachable!("{layout:?}: no kernel") };
    let shared = ring::few_experts_shared(layout);
    let launch = Launch::new(gpu.sms(), ring::THREADS).shared(shared);
    gpu.launch(&kernels[which], launch, args)
}

fn hidden(ws: &Workspace, inner: usize, n_rows: usize) -> Values {
    Values { x: ws.hidden(), stride: inner, cols: inner, n_slices: 1, n_rows, halves: false }
}

/// The shared expert by products of few rows.
fn shared(rows: &Rows<'_>, bank: &Bank<'_>, n_rows: usize, out: DevicePtr) -> Result<()> {
    let (gpu, ws, inner) = (rows.gpu, rows.ws, bank.gate.rows());
    let up = ws.hidden().add(n_rows * inner * 4);
    let x = rows.values(0, n_rows);
    let jobs = [
        Job { out: ws.hidden(), stride: inner, w: bank.gate },
        Job { out: up, stride: inner, w: bank.up },
    ];
    products_at(gpu, ws, (x.x, x.stride), &jobs, 1, n_rows)?;
    sorted::gate(gpu, (ws.hidden(), up), bank.clamp, n_rows * inner)?;
    let job = Job { out, stride: bank.down.rows(), w: bank.down };
    products_at(gpu, ws, (ws.hidden(), inner), &[job], 1, n_rows)
}
