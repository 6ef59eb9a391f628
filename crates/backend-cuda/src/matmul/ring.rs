//! Which kernels with rings there are (`cuda/matmul/ring.cuh`), for devices with the bulk copy engine and
//! the shared memory that the rings take.

use super::CHUNK_COLS;
use super::weights::{Layout, Matrix};
use super::workspace::RECORD_32;
use crate::gpu::Gpu;

/// Warps of a block, and its threads.
pub(super) const WARPS: usize = 16;
pub(super) const THREADS: u32 = 32 * WARPS as u32;
/// Bytes of a slot, and of a chunk of Q8_0.
pub(super) const SLOT_BYTES: usize = 4352;
/// Bytes of plain values that a slot holds of a row.
const SLOT_ROW: usize = 256;
/// The oldest device with the bulk copy engine.
pub(crate) const ARCH_MIN: u32 = 90;
/// Pairs whose experts are kept near, and bytes of the grid of IQ2_XXS.
const NEAR_PAIRS: usize = 256;
pub(crate) const GRID_BYTES: usize = 1024;

/// Columns of a slot.
fn slot_cols(layout: Layout) -> usize {
    match layout {
        Layout::Q2K | Layout::Iq2Xxs | Layout::Mxfp4 => 2 * CHUNK_COLS,
        Layout::F32 => SLOT_ROW / 4,
        Layout::F16 | Layout::BF16 => SLOT_ROW / 2,
        Layout::Q8_0 | Layout::Q4K | Layout::Q6K => CHUNK_COLS,
    }
}

/// Slots of a panel.
pub(crate) fn slots(m: &Matrix) -> usize {
    m.cols().div_ceil(slot_cols(m.layout()))
}

/// Panels of a unit of `gemv_ring.cu`.
pub(super) fn unit_panels(m: &Matrix) -> usize {
    (WARPS / slots(m)).max(1)
}

/// Whether slots of the matrix can be copied: rows of plain values are made of whole ones.
pub(crate) fn is_whole(m: &Matrix) -> bool {
    m.layout().is_chunked() || m.cols().is_multiple_of(slot_cols(m.layout()))
}

/// Whether this device has rings of so many bytes, for these matrices.
pub(super) fn has<'a>(gpu: &Gpu, shared: usize, mut all: impl Iterator<Item = &'a Matrix>) -> bool {
    gpu.arch() >= ARCH_MIN && shared <= gpu.description().shared_max && all.all(is_whole)
}

pub(crate) const fn ring_bytes(depth: usize) -> usize {
    WARPS * depth * (SLOT_BYTES + 8)
}

/// Shared memory of a kernel of `gemv_ring.cu` for so many rows.
pub(super) fn gemv_shared(rows: usize) -> usize {
    let (depth, buffers) = if rows > 8 { (2, 1) } else { (3, 2) };
    ring_bytes(depth) + buffers * WARPS * rows.div_ceil(8) * 128 * 4 + GRID_BYTES
}

/// Shared memory of a kernel of `gemv_few.cu` for so many eights of rows: two slots a warp, sums of two units twice,
/// scales, 64 units of 48 bytes.
pub(super) const fn gemv_few_shared(eights: usize) -> usize {
    ring_bytes(2) + eights * WARPS * (2 * 2 * 128 * 4 + 8 * 8 * 4) + 64 * 48
}

/// Records that `gemv_one.cu` can make for itself.
pub(super) const RAW_MAX: usize = 32;

/// Shared memory of `gemv_one.cu`: three slots a warp, sums of four units twice, 64 units of 48 bytes, records.
pub(super) const ONE_SHARED: usize =
    ring_bytes(3) + 2 * 4 * WARPS * 16 * 4 + 64 * 48 + RAW_MAX * RECORD_32;
/// The same where results are rounded too: without records, but static sums of four units.
pub(super) const ONE_ROUNDED_SHARED: usize = ring_bytes(3) + 2 * 4 * WARPS * 16 * 4 + 64 * 48 + 16;
/// The same where results go to the next site: sums of two units twice, and the site's weights.
pub(super) const ONE_NEXT_SHARED: usize =
    ring_bytes(3) + 2 * 2 * WARPS * 16 * 4 + 64 * 48 + PROJECT_BYTES;
/// The largest of these, and what they have beside.
pub(super) const ONE_SHARED_MAX: usize = ONE_NEXT_SHARED + CROSSING_BYTES;

/// Units of a block of `experts_one.cu`, at most.
pub(super) const ONE_UP_UNITS: usize = 32;

/// Shared memory of `experts_one.cu`: a grid for every lane, two slots a warp, sums of eight units twice, and
/// what is found of its units.
pub(super) const ONE_UP_SHARED: usize =
    256 * 256 + ring_bytes(2) + 2 * 8 * WARPS * 16 * 4 + 64 * ONE_UP_UNITS;

/// Shared memory of a kernel of `experts_few.cu`: three slots a warp, of IQ2_XXS a grid for every lane and four of its
/// smaller slots; sums of two units twice.
pub(super) fn few_experts_shared(layout: Layout) -> usize {
    let slots = match layout {
        Layout::Iq2Xxs => 256 * 256 + 4 * WARPS * (2 * 1120 + 8),
        _ => ring_bytes(3) + 16,
    };
    slots + 2 * 2 * WARPS * 64 * 4 + WARPS * 4
}

/// Shared memory of `experts_down_one.cu`: four places a warp, sums of two panels twice, what goes to the next site, and
/// the ids of a row's experts.
pub(super) const ONE_DOWN_SHARED: usize =
    4 * WARPS * (2 * 1344 + 8) + 2 * 2 * WARPS * 16 * 4 + CROSSING_BYTES + PROJECT_BYTES + 64;
/// `Crossing` of `cuda/site_few.cuh`, and a chunk's weights.
const CROSSING_BYTES: usize = 24 * 4 + 32 * 4 + 8 * 16 * 4;
const PROJECT_BYTES: usize = 96 * 32 * 4;

/// Shared memory of a kernel of `experts_ring.cu` with two buffers of so many sums of 16 values.
pub(super) fn experts_shared(sums: usize) -> usize {
    ring_bytes(3) + GRID_BYTES + NEAR_PAIRS * 4 + 2 * sums * 16 * 4
}
