//! Attention over window and selected rows.

use backend::{Act, Pooled, Result, Selected, Shape};
use model::Rope;

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::kv::{Kv, PooledRows, RowFormat, WindowRows};
use crate::matmul::{CHUNK_COLS, Records};
use crate::rope_tail::RopeArgs;

const WIDE: Kernel = Kernel::new("attend_wide", "attend_wide");
const WIDE_HALVES: Kernel = Kernel::new("attend_wide", "attend_wide_halves");
/// Heads of a block of `attend_wide`, the channels that it takes, its threads and its shared memory.
const WIDE_HEADS: usize = 64;
const WIDE_DIM: u32 = 512;
const WIDE_THREADS: u32 = 384;
const WIDE_SHARED: usize = (64 * 512 * 2) * 3 + 64 * 128 + 2 * 64 * 4 + 2 * 64 * 4 + 64 + 1024;
const FEW: Kernel = Kernel::new("attend_few", "attend_few");
/// Keys that a block of `attend_few` takes at once, the channels of a head, and its shared memory.
const FEW_KEYS: usize = 32;
const FEW_DIM: u32 = 512;
const FEW_SHARED: usize = 32 * 264 * 4 + 8 * 16 * 40 * 4 + 8 * 16 * 4 + 16 * 40 * 2 + 16 * 4;
const COMBINE: Kernel = Kernel::new("attend", "attend_combine");
/// The same for heads of whole 256s, and the warps of its blocks.
const JOIN: Kernel = Kernel::new("attend", "attend_join");
const JOIN_WARPS: usize = 4;

/// Keys that a block decodes together, and its heads: of `attend_few` too.
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
    /// Where each part's largest score and weight begin.
    stats: DevicePtr,
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        4 * PARTS_MAX * shape.config.n_heads * (shape.config.head_dim + 2)
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let parts = gpu.alloc("attention parts", Self::bytes(shape))?;
        let sums = 4 * PARTS_MAX * shape.config.n_heads * shape.config.head_dim;
        Ok(Self { stats: parts.ptr().add(sums), parts })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AttendArgs {
    rope: RopeArgs,
    q: DevicePtr,
    out: DevicePtr,
    parts: DevicePtr,
    stats: DevicePtr,
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
    eps: f32,
    raw: u32,
    leaves_parts: u32,
}

// SAFETY: the struct of cuda/attend.cu, without padding.
unsafe impl Args for AttendArgs {}

#[repr(C)]
#[derive(Clone, Copy)]
struct AttendHalvesArgs {
    attend: AttendArgs,
    out: DevicePtr,
    factors: DevicePtr,
    rows: u32,
    slice_heads: u32,
}

// SAFETY: the struct of cuda/attend_wide.cu, without padding.
unsafe impl Args for AttendHalvesArgs {}

#[repr(C)]
#[derive(Clone, Copy)]
struct CombineArgs {
    rope: RopeArgs,
    parts: DevicePtr,
    stats: DevicePtr,
    sinks: DevicePtr,
    out: DevicePtr,
    rounded: Records,
    step: DevicePtr,
    n_heads: u32,
    dim: u32,
    n_splits: u32,
    turn: u32,
}

// SAFETY: the struct of cuda/attend.cu, without padding.
unsafe impl Args for CombineArgs {}

/// Blocks that share a row's keys: enough to fill the device, no more than there are tiles of keys.
fn splits(parts: &Parts<'_>, n_rows: usize, head_blocks: usize, tiles: usize) -> usize {
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

/// Whether the tensor cores can do it for few rows.
fn is_few(f: &RowFormat, n_heads: usize, n_rows: usize) -> bool {
    f.is_pieces(FEW_DIM) && n_heads.is_multiple_of(HEADS) && n_rows <= PARTS_MAX
}

/// What is attended to, and with what.
pub(crate) struct Attention<'a> {
    pub(crate) kv: &'a Kv,
    pub(crate) layer: usize,
    pub(crate) selected: Selected<'a, Buffer>,
    pub(crate) sinks: DevicePtr,
    pub(crate) n_rows: usize,
}

/// Queries that are normed and rotated, to the output of every head.
pub(crate) fn attend(
    parts: &Parts<'_>,
    (out, q): (&Act<Buffer>, &Act<Buffer>),
    what: &Attention<'_>,
) -> Result<()> {
    let mut args = what.args(parts, q)?;
    args.out = out.buf.ptr();
    let heads = args.n_heads as usize;
    if is_wide(parts, &args.format, heads, what.n_rows) {
        let grid = Launch::grid2(heads / WIDE_HEADS, what.n_rows, WIDE_THREADS);
        return parts.gpu.launch(&WIDE, grid.shared(WIDE_SHARED), &args);
    }
    let in_parts = args.n_splits > 1 || is_few(&args.format, heads, what.n_rows);
    args.leaves_parts = u32::from(in_parts);
    what.launch(parts, &args)?;
    if in_parts { what.combine(parts, &args, None) } else { Ok(()) }
}

/// Whether [`attend_halves`] can do it.
pub(crate) fn can_fuse(
    parts: &Parts<'_>,
    kv: &Kv,
    q: &Act<Buffer>,
    n_groups: usize,
    n_rows: usize,
) -> bool {
    let format = kv.row_format(Pooled::Attention);
    let n_heads = q.cols / format.dim as usize;
    n_heads.is_multiple_of(n_groups)
        && WIDE_HEADS.is_multiple_of(n_heads / n_groups)
        && parts.shape.config.rope_dim.is_multiple_of(8)
        && is_wide(parts, &format, n_heads, n_rows)
}

/// Queries as they are projected, to f16 rows of every head, turned back, in `n_groups` slices: where they
/// and their factors go, and for how many rows there is room.
pub(crate) fn attend_halves(
    parts: &Parts<'_>,
    q: &Act<Buffer>,
    what: &Attention<'_>,
    rope: RopeArgs,
    (out, factors, rows): (DevicePtr, DevicePtr, usize),
    n_groups: usize,
) -> Result<()> {
    let mut attend = what.args(parts, q)?;
    (attend.rope, attend.raw) = (rope, 1);
    let heads = attend.n_heads as usize;
    let args = AttendHalvesArgs {
        attend,
        out,
        factors,
        rows: rows as u32,
        slice_heads: (heads / n_groups) as u32,
    };
    let grid = Launch::grid2(heads / WIDE_HEADS, what.n_rows, WIDE_THREADS);
    parts.gpu.launch(&WIDE_HALVES, grid.shared(WIDE_SHARED), &args)
}

/// Queries as they are projected, to the output of every head, turned back; its records are left for
/// the product with `n_groups` slices. For few rows.
pub(crate) fn attend_raw(
    parts: &Parts<'_>,
    (out, q): (&Act<Buffer>, &Act<Buffer>),
    what: &Attention<'_>,
    rope: &Rope,
    n_groups: usize,
) -> Result<()> {
    let mut args = what.args(parts, q)?;
    args.rope = RopeArgs::new(rope, false);
    args.out = out.buf.ptr();
    (args.raw, args.leaves_parts) = (1, 1);
    what.launch(parts, &args)?;
    what.combine(parts, &args, Some((RopeArgs::new(rope, true), n_groups)))
}

impl Attention<'_> {
    fn args(&self, parts: &Parts<'_>, q: &Act<Buffer>) -> Result<AttendArgs> {
        let (kv, layer) = (self.kv, self.layer);
        let format = kv.row_format(Pooled::Attention);
        let (dim, window) = (format.dim as usize, kv.window(layer));
        let n_heads = q.cols / dim;
        let context = parts.mirror.context();
        let (selected, ids, ids_cols, keys_max) = match self.selected {
            Selected::WindowOnly => (0, DevicePtr::NULL, 0, 0),
            Selected::All => (1, DevicePtr::NULL, 0, context / 128),
            Selected::Picked(ids) => (2, ids.buf.ptr(), ids.cols, ids.cols.min(context / 4)),
        };
        let pooled = match self.selected {
            Selected::WindowOnly => PooledRows::default(),
            _ => kv.pooled(layer, Pooled::Attention)?,
        };
        let keys_max = keys_max + window.window as usize;
        let keys = if is_few(&format, n_heads, self.n_rows) { FEW_KEYS } else { KEYS };
        let head_blocks = n_heads.div_ceil(HEADS);
        let n_splits = splits(parts, self.n_rows, head_blocks, keys_max.div_ceil(keys));
        Ok(AttendArgs {
            rope: RopeArgs::none(),
            q: q.buf.ptr(),
            out: DevicePtr::NULL,
            parts: parts.attention.parts.ptr(),
            stats: parts.attention.stats,
            sinks: self.sinks,
            ids,
            window,
            pooled,
            format,
            step: parts.mirror.ptr(),
            n_heads: n_heads as u32,
            ids_cols: ids_cols as u32,
            selected,
            n_splits: n_splits as u32,
            scale: 1.0 / (dim as f32).sqrt(),
            eps: parts.shape.config.rms_eps,
            raw: 0,
            leaves_parts: 0,
        })
    }

    fn launch(&self, parts: &Parts<'_>, args: &AttendArgs) -> Result<()> {
        let (dim, heads) = (args.format.dim as usize, args.n_heads as usize);
        let launch = Launch::grid3(heads.div_ceil(HEADS), self.n_rows, args.n_splits as usize, 256);
        if is_few(&args.format, heads, self.n_rows) {
            return parts.gpu.launch(&FEW, launch.shared(FEW_SHARED), args);
        }
        parts.gpu.launch(&kernel(dim), launch.shared(shared_bytes(dim)), args)
    }

    /// Puts the parts together. `turn`: by which rotation they are turned back, and slices of a row
    /// that are rounded.
    fn combine(
        &self,
        parts: &Parts<'_>,
        args: &AttendArgs,
        turn: Option<(RopeArgs, usize)>,
    ) -> Result<()> {
        let (dim, n_heads) = (args.format.dim as usize, args.n_heads as usize);
        let rounded = match turn {
            Some((_, n_groups)) if dim.is_multiple_of(CHUNK_COLS) => {
                let slices = (n_groups, n_heads * dim / n_groups);
                parts.products.leave_records(args.out, slices, self.n_rows)
            }
            _ => Records::default(),
        };
        let args = CombineArgs {
            rope: turn.map_or_else(RopeArgs::none, |(rope, _)| rope),
            parts: args.parts,
            stats: args.stats,
            sinks: args.sinks,
            out: args.out,
            rounded,
            step: args.step,
            n_heads: args.n_heads,
            dim: args.format.dim,
            n_splits: args.n_splits,
            turn: u32::from(turn.is_some()),
        };
        let blocks = n_heads * dim.div_ceil(CHUNK_COLS);
        if dim.is_multiple_of(CHUNK_COLS) {
            let launch =
                Launch::grid2(blocks.div_ceil(JOIN_WARPS), self.n_rows, 32 * JOIN_WARPS as u32);
            return parts.gpu.launch(&JOIN, launch, &args);
        }
        parts.gpu.launch(&COMBINE, Launch::grid2(blocks, self.n_rows, 256), &args)
    }
}
