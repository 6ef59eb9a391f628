//! The lightning indexer's choice of compressed rows, tile by tile of queries.

use backend::{Act, Ids, Pooled, Result, Shape};

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::kv::{Kv, PooledRows, RowFormat};
use crate::rope_tail::RopeArgs;
use crate::{FEW_ROWS, Parts};

const QUERY: Kernel = Kernel::new("index_top_k", "index_query");
const SCORES: Kernel = Kernel::new("index_top_k", "index_scores");
const SELECT: Kernel = Kernel::new("index_top_k", "index_select");
const QUERY_WIDE: Kernel = Kernel::new("index_top_k_wide", "index_query_wide");
const SCORES_WIDE: Kernel = Kernel::new("index_top_k_wide", "index_scores_wide");
const SELECT_WIDE: Kernel = Kernel::new("index_top_k_wide", "index_select_wide");

/// Keys of a block of `index_scores`.
const SCORE_KEYS: usize = 64;
/// Scores held at once, at most, unless one query has more.
const SCORES_MAX: usize = 16 << 20;
/// Queries looked at together, at most.
const TILE_MAX: usize = 128;
/// The same where tensor cores score.
const WIDE_SCORES_MAX: usize = 32 << 20;
const WIDE_TILE_MAX: usize = 1024;
/// What `cuda/index_top_k_wide.cu` is made for: heads and their channels, rows and keys of a block.
const WIDE_HEADS: usize = 64;
const WIDE_DIM: usize = 128;
const WIDE_ROWS: usize = 4;
const WIDE_KEYS: usize = 2048;
const WIDE_SHARED: usize = WIDE_ROWS * WIDE_HEADS * (WIDE_DIM * 2 + 4) + 1024 + 16;
const SCORES_FEW: Kernel = Kernel::new("index_top_k_few", "index_scores_few");
const SELECT_FEW: Kernel = Kernel::new("index_top_k_few", "index_select_few");
/// Keys and scores of a block of `cuda/index_top_k_few.cu`, its threads, its bins, and its parts of a row at most.
const FEW_KEYS: usize = 256;
const FEW_THREADS: u32 = 512;
const FEW_PART: usize = 2048;
const FEW_BINS: usize = 4096;
const FEW_PARTS_MAX: usize = 512;

/// Rounded queries and scores of a tile.
pub(crate) struct Workspace {
    rounded: Buffer,
    scores: Buffer,
    /// For few rows: of each its bins, then of each what its parts have kept, then a counter of each.
    bins: Buffer,
    tile: usize,
    score_cols: usize,
}

/// Rows of a tile, and scores of a row.
fn sizes(gpu: &Gpu, shape: &Shape) -> (usize, usize) {
    let cols = shape.limits.context.div_ceil(4).max(1);
    let (scores, tile) = match is_wide(gpu, shape) {
        true => (WIDE_SCORES_MAX, WIDE_TILE_MAX),
        false => (SCORES_MAX, TILE_MAX),
    };
    ((scores / cols).clamp(1, tile).min(shape.limits.step_rows.max(1)), cols)
}

/// Whether the device and the shape are those of the kernels for many rows.
fn is_wide(gpu: &Gpu, shape: &Shape) -> bool {
    gpu.arch() == 90 && gpu.description().shared_max >= WIDE_SHARED && is_published(shape)
}

/// Whether tensor cores can score: the shape is that of the published models, and queries are rounded.
fn is_published(shape: &Shape) -> bool {
    let indexer = &shape.config.indexer;
    shape.format.rounds() && (indexer.n_heads, indexer.head_dim) == (WIDE_HEADS, WIDE_DIM)
}

/// Rows that the kernels for few rows take together: none where they cannot.
fn few_rows(gpu: &Gpu, shape: &Shape) -> usize {
    let (tile, cols) = sizes(gpu, shape);
    match is_published(shape) && cols <= FEW_PART * FEW_PARTS_MAX {
        true => tile.min(FEW_ROWS),
        false => 0,
    }
}

/// Bytes for each of them.
const FEW_BYTES: usize = 4 * (FEW_BINS + FEW_PARTS_MAX + 1);

impl Workspace {
    pub(crate) fn bytes(gpu: &Gpu, shape: &Shape) -> usize {
        let (tile, cols) = sizes(gpu, shape);
        let indexer = &shape.config.indexer;
        let few = FEW_BYTES * few_rows(gpu, shape).max(1);
        4 * tile * (cols + indexer.n_heads * indexer.head_dim) + few
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let (tile, score_cols) = sizes(gpu, shape);
        let indexer = &shape.config.indexer;
        let rounded = gpu.alloc("index queries", 4 * tile * indexer.n_heads * indexer.head_dim)?;
        let scores = gpu.alloc("index scores", 4 * tile * score_cols)?;
        let bins = gpu.alloc("index bins", FEW_BYTES * few_rows(gpu, shape).max(1))?;
        Ok(Self { rounded, scores, bins, tile, score_cols })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct IndexArgs {
    rope: RopeArgs,
    q: DevicePtr,
    weights: DevicePtr,
    rounded: DevicePtr,
    scores: DevicePtr,
    ids: DevicePtr,
    pooled: PooledRows,
    format: RowFormat,
    step: DevicePtr,
    first_row: u32,
    n_heads: u32,
    dim: u32,
    top_k: u32,
    score_cols: u32,
    factor: f32,
}

/// The same for `cuda/index_top_k_few.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct IndexFewArgs {
    index: IndexArgs,
    bins: DevicePtr,
    kept: DevicePtr,
    done: DevicePtr,
}

/// The same for `cuda/index_top_k_wide.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct IndexWideArgs {
    index: IndexArgs,
    head_weights: DevicePtr,
    n_rows: u32,
    unused: u32,
}

// SAFETY: the struct of cuda/index_top_k.cu, without padding.
unsafe impl Args for IndexArgs {}
// SAFETY: the struct of cuda/index_top_k_few.cu, without padding.
unsafe impl Args for IndexFewArgs {}
// SAFETY: the struct of cuda/index_top_k_wide.cu; the last field fills the padding.
unsafe impl Args for IndexWideArgs {}

/// `rope`: the rotation that queries still lack.
pub(crate) fn index_top_k(
    parts: &Parts<'_>,
    ids: &Ids<Buffer>,
    kv: (&Kv, usize),
    (q, weights): (&Act<Buffer>, &Act<Buffer>),
    rope: Option<RopeArgs>,
    n_rows: usize,
) -> Result<()> {
    let (work, indexer) = (parts.index, &parts.shape.config.indexer);
    // Few rows would leave most multiprocessors idle.
    if is_wide(parts.gpu, parts.shape) && 4 * n_rows >= parts.gpu.sms() && work.tile >= WIDE_ROWS {
        return many(parts, ids, kv, (q, weights), rope, n_rows);
    }
    let mut args = args(parts, ids, kv, (q, weights))?;
    args.rope = rope.unwrap_or_else(RopeArgs::none);
    if n_rows <= few_rows(parts.gpu, parts.shape) {
        return few(parts, args, n_rows);
    }
    let visible_max = parts.mirror.context() / 4;
    for first in (0..n_rows).step_by(work.tile) {
        let n = work.tile.min(n_rows - first);
        args.first_row = first as u32;
        // Where everything is selected, nothing is scored.
        if visible_max > ids.cols {
            let launch = Launch::grid2(indexer.n_heads, n, 64).shared(4 * indexer.head_dim);
            parts.gpu.launch(&QUERY, launch, &args)?;
            let tiles = visible_max.min(work.score_cols).div_ceil(SCORE_KEYS);
            parts.gpu.launch(&SCORES, Launch::grid2(tiles, n, 256), &args)?;
        }
        parts.gpu.launch(&SELECT, Launch::new(n, 512), &args)?;
    }
    Ok(())
}

fn args(
    parts: &Parts<'_>,
    ids: &Ids<Buffer>,
    kv: (&Kv, usize),
    (q, weights): (&Act<Buffer>, &Act<Buffer>),
) -> Result<IndexArgs> {
    let (work, indexer) = (parts.index, &parts.shape.config.indexer);
    Ok(IndexArgs {
        rope: RopeArgs::none(),
        q: q.buf.ptr(),
        weights: weights.buf.ptr(),
        rounded: work.rounded.ptr(),
        scores: work.scores.ptr(),
        ids: ids.buf.ptr(),
        pooled: kv.0.pooled(kv.1, Pooled::Index)?,
        format: kv.0.row_format(Pooled::Index),
        step: parts.mirror.ptr(),
        first_row: 0,
        n_heads: indexer.n_heads as u32,
        dim: indexer.head_dim as u32,
        top_k: ids.cols as u32,
        score_cols: work.score_cols as u32,
        factor: 1.0 / ((indexer.n_heads * indexer.head_dim) as f32).sqrt(),
    })
}

/// With the kernels for few rows.
fn few(parts: &Parts<'_>, index: IndexArgs, n_rows: usize) -> Result<()> {
    let (gpu, rows) = (parts.gpu, few_rows(parts.gpu, parts.shape));
    let bins = parts.index.bins.ptr();
    let kept = bins.add(4 * rows * FEW_BINS);
    let done = kept.add(4 * rows * FEW_PARTS_MAX);
    let args = IndexFewArgs { index, bins, kept, done };
    let visible_max = (parts.mirror.context() / 4).min(parts.index.score_cols);
    // Where everything is selected, nothing is scored.
    if visible_max > index.top_k as usize {
        let blocks = visible_max.div_ceil(FEW_KEYS).min((gpu.sms() / n_rows).max(1));
        gpu.launch(&SCORES_FEW, Launch::grid2(blocks, n_rows, FEW_THREADS), &args)?;
    }
    let parts_max = visible_max.div_ceil(FEW_PART).max(1);
    gpu.launch(&SELECT_FEW, Launch::grid2(parts_max, n_rows, 512), &args)
}

/// With the kernels for many rows.
fn many(
    parts: &Parts<'_>,
    ids: &Ids<Buffer>,
    kv: (&Kv, usize),
    queries: (&Act<Buffer>, &Act<Buffer>),
    rope: Option<RopeArgs>,
    n_rows: usize,
) -> Result<()> {
    let work = parts.index;
    let mut index = args(parts, ids, kv, queries)?;
    index.rope = rope.unwrap_or_else(RopeArgs::none);
    // Whole groups of rows; f16 takes half of the place of the queries, and weights lie behind it.
    let tile = work.tile / WIDE_ROWS * WIDE_ROWS;
    let head_weights = work.rounded.ptr().add(tile * WIDE_HEADS * WIDE_DIM * 2);
    let mut args = IndexWideArgs { index, head_weights, n_rows: 0, unused: 0 };
    let visible_max = (parts.mirror.context() / 4).min(work.score_cols);
    for first in (0..n_rows).step_by(tile) {
        let n = tile.min(n_rows - first);
        (args.index.first_row, args.n_rows) = (first as u32, n as u32);
        // Where everything is selected, nothing is scored.
        if visible_max > ids.cols {
            parts.gpu.launch(&QUERY_WIDE, Launch::grid2(WIDE_HEADS, n, 32), &args)?;
            let (keys, rows) = (visible_max.div_ceil(WIDE_KEYS), n.div_ceil(WIDE_ROWS));
            let launch = Launch::grid2(keys, rows, 256).shared(WIDE_SHARED);
            parts.gpu.launch(&SCORES_WIDE, launch, &args)?;
        }
        parts.gpu.launch(&SELECT_WIDE, Launch::new(n, 512), &args)?;
    }
    Ok(())
}
