//! One row's experts, the chosen in IQ2_XXS and Q2_K and the shared one in Q8_0, in two launches
//! (`cuda/matmul/experts_one.cu`, `cuda/matmul/experts_down_one.cu`).

use backend::Result;

use super::experts::{Bank, Rows, UpArgs};
use super::weights::{Layout, MatrixArgs};
use super::{CHUNK_COLS, CHUNK_ROWS, ring};
use crate::gpu::{Args, DevicePtr, Kernel, Launch};
use crate::hyper_connection::NextArgs;

const UP: Kernel = Kernel::new("matmul/experts_one", "one_up_iq2_xxs");
const DOWN: Kernel = Kernel::new("matmul/experts_down_one", "one_down_q2_k");
/// Bytes of the record of 256 activations with a scale for every 16 (`ACT16_RECORD`).
const RECORD_16: usize = 384;

#[repr(C)]
#[derive(Clone, Copy)]
struct OneUpArgs {
    up: UpArgs,
    rounded: DevicePtr,
    panels: u32,
    n_shared: u32,
    n_units: u32,
    knows_x: u32,
}

// SAFETY: `repr(C)`, as in `experts_one.cu`, without padding.
unsafe impl Args for OneUpArgs {}

#[repr(C)]
#[derive(Clone, Copy)]
struct OneDownArgs {
    down: MatrixArgs,
    shared_down: MatrixArgs,
    x: DevicePtr,
    ids: DevicePtr,
    out: DevicePtr,
    used: u32,
    n_experts: u32,
    n_shared: u32,
    unused: u32,
    next: NextArgs,
}

// SAFETY: `repr(C)`, as in `experts_down_one.cu`; `unused` fills the padding.
unsafe impl Args for OneDownArgs {}

/// Units of the gated products: panels of every pair.
fn units(bank: &Bank<'_>, shared: Option<&Bank<'_>>) -> usize {
    bank.gate.rows() / CHUNK_ROWS * (bank.used() + usize::from(shared.is_some()))
}

/// Whether [`mixture`] takes these experts.
pub(super) fn can(rows: &Rows<'_>, bank: &Bank<'_>, shared: Option<&Bank<'_>>) -> bool {
    let banks = || std::iter::once(bank).chain(shared);
    let matrices = || banks().flat_map(|b| [b.gate, b.up, b.down]);
    let gated = |b: &Bank<'_>| {
        let layout = b.gate.layout();
        layout == b.up.layout() && matches!(layout, Layout::Iq2Xxs | Layout::Q8_0)
    };
    let inner = bank.gate.rows();
    let records = inner / CHUNK_COLS * (bank.used() + usize::from(shared.is_some()));
    bank.routing.is_some()
        && banks().all(gated)
        && bank.down.layout() == Layout::Q2K
        && shared.is_none_or(|s| s.down.layout() == Layout::Q8_0)
        && inner.is_multiple_of(CHUNK_COLS)
        && bank.down.rows().is_multiple_of(2 * CHUNK_ROWS)
        && records * RECORD_16 <= rows.ws.pairs(inner) * inner * 4
        && units(bank, shared).div_ceil(rows.gpu.sms()) <= ring::ONE_UP_UNITS
        && ring::has(rows.gpu, ring::ONE_UP_SHARED.max(ring::ONE_DOWN_SHARED), matrices())
}

/// The sum over the experts of row `first`: whether it has gone to the next site. `knows_x`: the kernel before lets the
/// next begin only when the row is there.
pub(super) fn mixture(
    rows: &Rows<'_>,
    up: &UpArgs,
    (bank, shared): (&Bank<'_>, Option<&Bank<'_>>),
    first: usize,
    knows_x: bool,
) -> Result<bool> {
    let (gpu, sms) = (rows.gpu, rows.gpu.sms());
    let panels = bank.gate.rows() / CHUNK_ROWS;
    let (n_units, n_shared) = (units(bank, shared), shared.map_or(0, |_| panels));
    let args = OneUpArgs {
        up: *up,
        rounded: rows.ws.hidden(),
        panels: panels as u32,
        n_shared: n_shared as u32,
        n_units: n_units as u32,
        knows_x: u32::from(knows_x),
    };
    let launch = Launch::new(n_units.min(sms), ring::THREADS);
    gpu.launch(&UP, launch.shared(ring::ONE_UP_SHARED), &args)?;

    let results = bank.down.rows();
    let next = rows.next.filter(|next| next.takes(results));
    let args = OneDownArgs {
        down: bank.down.args(),
        shared_down: shared.map(|s| s.down.args()).unwrap_or_default(),
        x: rows.ws.hidden(),
        ids: bank.routing_from(first).0,
        out: rows.out_from(first),
        used: bank.used() as u32,
        n_experts: bank.down.experts() as u32,
        n_shared: u32::from(shared.is_some()),
        unused: 0,
        next: next.copied().unwrap_or_default(),
    };
    let launch = Launch::new((results / (2 * CHUNK_ROWS)).min(sms), ring::THREADS);
    gpu.launch(&DOWN, launch.shared(ring::ONE_DOWN_SHARED), &args)?;
    Ok(next.is_some())
}
