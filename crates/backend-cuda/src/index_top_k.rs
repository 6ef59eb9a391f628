//! The lightning indexer's choice of compressed rows, tile by tile of queries.

use backend::{Act, Ids, Pooled, Result, Shape};

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::kv::{Kv, PooledRows, RowFormat};
use crate::rope_tail::RopeArgs;

const QUERY: Kernel = Kernel::new("index_top_k", "index_query");
const SCORES: Kernel = Kernel::new("index_top_k", "index_scores");
const SELECT: Kernel = Kernel::new("index_top_k", "index_select");

/// Keys of a block of `index_scores`.
const SCORE_KEYS: usize = 64;
/// Scores held at once, at most, unless one query has more.
const SCORES_MAX: usize = 16 << 20;
/// Queries looked at together, at most.
const TILE_MAX: usize = 128;

/// Rounded queries and scores of a tile.
pub(crate) struct Workspace {
    rounded: Buffer,
    scores: Buffer,
    tile: usize,
    score_cols: usize,
}

/// Rows of a tile, and scores of a row.
fn sizes(shape: &Shape) -> (usize, usize) {
    let cols = shape.limits.context.div_ceil(4).max(1);
    ((SCORES_MAX / cols).clamp(1, TILE_MAX).min(shape.limits.step_rows.max(1)), cols)
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let (tile, cols) = sizes(shape);
        let indexer = &shape.config.indexer;
        4 * tile * (cols + indexer.n_heads * indexer.head_dim)
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let (tile, score_cols) = sizes(shape);
        let indexer = &shape.config.indexer;
        let rounded = gpu.alloc("index queries", 4 * tile * indexer.n_heads * indexer.head_dim)?;
        let scores = gpu.alloc("index scores", 4 * tile * score_cols)?;
        Ok(Self { rounded, scores, tile, score_cols })
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

// SAFETY: the struct of cuda/index_top_k.cu, without padding.
unsafe impl Args for IndexArgs {}

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
    let mut args = IndexArgs {
        rope: rope.unwrap_or_else(RopeArgs::none),
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
    };
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
