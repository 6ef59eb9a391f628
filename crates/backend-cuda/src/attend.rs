//! Attention over window and selected rows.

use backend::{Act, Pooled, Result, Selected, Shape};

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::kv::{Kv, PooledRows, RowFormat, WindowRows};

const WIDE: Kernel = Kernel::new("attend_wide", "attend_wide");
/// Heads of a block of `attend_wide`, the channels that it takes, its threads and its shared memory.
const WIDE_HEADS: usize = 64;
const WIDE_DIM: u32 = 512;
const WIDE_THREADS: u32 = 384;
const WIDE_SHARED: usize = (64 * 512 * 2) * 3 + 64 * 128 + 2 * 64 * 4 + 64 + 1024;
const COMBINE: Kernel = Kernel::new("attend", "attend_combine");

/// Keys that a block decodes together, and its heads.
const KEYS: usize = 16;
const HEADS: usize = 16;
/// Rows times blocks that share a row's keys, at most.
const PARTS_MAX: usize = 64;
/// Channels of a head, at most: 32 in each lane of a warp.
pub(crate) const DIM_MAX: usize = 1024;

/// The kernel for heads of `dim` channels.
fn kernel(dim: usize) -> Kernel {
    let name = match dim.div_ceil(128) {
        0..=2 => "attend_2",
        3..=4 => "attend_4",
        _ => "attend_8",
    };
    Kernel::new("attend", name)
}

/// Dynamic shared memory of a block.
pub(crate) fn shared_bytes(dim: usize) -> usize {
    4 * KEYS * dim.next_multiple_of(4)
}

/// What blocks that share a row's keys leave behind.
pub(crate) struct Workspace {
    parts: Buffer,
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        4 * PARTS_MAX * shape.config.n_heads * (shape.config.head_dim + 2)
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        Ok(Self { parts: gpu.alloc("attention parts", Self::bytes(shape))? })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AttendArgs {
    q: DevicePtr,
    out: DevicePtr,
    parts: DevicePtr,
    sinks: DevicePtr,
    ids: DevicePtr,
    window: WindowRows,
    pooled: PooledRows,
    format: RowFormat,
    step: DevicePtr,
    n_heads: u32,
    ids_cols: u32,
    selected: u32,
    n_splits: u32,
    scale: f32,
    pad: u32,
}

// SAFETY: the struct of cuda/attend.cu, without padding.
unsafe impl Args for AttendArgs {}

/// Blocks that share a row's keys: enough to fill the device, no more than there are tiles of keys.
fn splits(parts: &Parts<'_>, n_rows: usize, head_blocks: usize, keys_max: usize) -> usize {
    let tiles = keys_max.div_ceil(KEYS);
    let wanted = (parts.gpu.sms() / (n_rows * head_blocks)).min(PARTS_MAX / n_rows).clamp(1, tiles);
    // As many as there are equal shares: none is empty when all keys are there.
    tiles.div_ceil(tiles.div_ceil(wanted))
}

/// Whether the kernel for many rows can do it, and its blocks fill half of the device.
fn is_wide(parts: &Parts<'_>, f: &RowFormat, n_heads: usize, n_rows: usize) -> bool {
    parts.gpu.arch() == 90
        && parts.gpu.description().shared_max >= WIDE_SHARED
        && f.is_pieces(WIDE_DIM)
        && n_heads.is_multiple_of(WIDE_HEADS)
        && 2 * n_rows * (n_heads / WIDE_HEADS) >= parts.gpu.sms()
}

pub(crate) fn attend(
    parts: &Parts<'_>,
    (out, q): (&Act<Buffer>, &Act<Buffer>),
    (kv, layer): (&Kv, usize),
    selected: &Selected<'_, Buffer>,
    sinks: DevicePtr,
    n_rows: usize,
) -> Result<()> {
    let format = kv.row_format(Pooled::Attention);
    let (dim, window) = (format.dim as usize, kv.window(layer));
    let n_heads = q.cols / dim;
    let context = parts.mirror.context();
    let (tag, ids, ids_cols, keys_max) = match selected {
        Selected::WindowOnly => (0, DevicePtr::NULL, 0, 0),
        Selected::All => (1, DevicePtr::NULL, 0, context / 128),
        Selected::Picked(ids) => (2, ids.buf.ptr(), ids.cols, ids.cols.min(context / 4)),
    };
    let pooled = match selected {
        Selected::WindowOnly => PooledRows::default(),
        _ => kv.pooled(layer, Pooled::Attention)?,
    };
    let blocks = n_heads.div_ceil(HEADS);
    let n_splits = splits(parts, n_rows, blocks, keys_max + window.window as usize);
    let args = AttendArgs {
        q: q.buf.ptr(),
        out: out.buf.ptr(),
        parts: parts.attention.parts.ptr(),
        sinks,
        ids,
        window,
        pooled,
        format,
        step: parts.mirror.ptr(),
        n_heads: n_heads as u32,
        ids_cols: ids_cols as u32,
        selected: tag,
        n_splits: n_splits as u32,
        scale: 1.0 / (dim as f32).sqrt(),
        pad: 0,
    };
    if is_wide(parts, &format, n_heads, n_rows) {
        let launch = Launch::grid2(n_heads / WIDE_HEADS, n_rows, WIDE_THREADS).shared(WIDE_SHARED);
        return parts.gpu.launch(&WIDE, launch, &args);
    }
    let launch = Launch::grid3(blocks, n_rows, n_splits, 256).shared(shared_bytes(dim));
    parts.gpu.launch(&kernel(dim), launch, &args)?;
    if n_splits > 1 {
        parts.gpu.launch(&COMBINE, Launch::grid2(n_heads, n_rows, 128), &args)?;
    }
    Ok(())
}
