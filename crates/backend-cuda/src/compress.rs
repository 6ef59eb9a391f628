//! Staging of window rows and compressor inputs, and the rows that close.

use backend::{Act, CompressorWeights, PoolInput, Pooled, Result, Shape};

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::kv::{Kv, PooledRows, RowFormat};
use crate::rope_tail::RopeArgs;
use crate::{Cuda, Parts};

const STAGE_WINDOW: Kernel = Kernel::new("compress", "stage_window");
const STAGE_OPEN: Kernel = Kernel::new("compress", "stage_open");
const COMPRESS_SPAN: Kernel = Kernel::new("compress", "compress_span");
const CLOSE_ROWS: Kernel = Kernel::new("compress", "close_rows");

/// Spans of so few rows, which close one row at most, are staged and closed by so many blocks each.
pub(crate) const SPAN_ROWS_MAX: usize = 4;
pub(crate) const SHARES: usize = 8;
/// Compressors of a layer, at most.
const COMPRESSORS: usize = 2;

/// Where the blocks that share a span meet: pooled channels, and blocks that are done.
pub(crate) struct Meeting {
    pub(crate) pooled: Buffer,
    pub(crate) done: Buffer,
    /// Of a span.
    pub(crate) cols: usize,
}

impl Meeting {
    /// Spans of both compressors, and their width.
    fn sizes(shape: &Shape) -> (usize, usize) {
        let c = &shape.config;
        (COMPRESSORS * shape.limits.n_slots, c.head_dim.max(c.indexer.head_dim))
    }

    pub(crate) fn bytes(shape: &Shape) -> usize {
        let (spans, cols) = Self::sizes(shape);
        4 * spans * (cols + 1)
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let (spans, cols) = Self::sizes(shape);
        let pooled = gpu.alloc("pooled rows", 4 * spans * cols)?;
        let done = gpu.alloc("blocks of a span that are done", 4 * spans)?;
        Ok(Self { pooled, done, cols })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct StageWindowArgs {
    rows: DevicePtr,
    staged: DevicePtr,
    format: RowFormat,
}

// SAFETY: the struct of cuda/compress.cu, without padding.
unsafe impl Args for StageWindowArgs {}

/// A compressor's inputs, weights and rows: `Compressor` of `cuda/compress.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Compressor {
    k: DevicePtr,
    z: DevicePtr,
    position_bias: DevicePtr,
    norm: DevicePtr,
    pooled: PooledRows,
    format: RowFormat,
    cols: u32,
    width: u32,
}

impl Compressor {
    pub(crate) fn new(
        kv: &Kv,
        layer: usize,
        pooled: Pooled,
        input: &PoolInput<Buffer>,
        w: &CompressorWeights<Cuda>,
    ) -> Result<Self> {
        Ok(Self {
            k: input.kv.buf.ptr(),
            z: input.gate.buf.ptr(),
            position_bias: w.position_bias.values()?,
            norm: w.norm.values()?,
            pooled: kv.pooled(layer, pooled)?,
            format: kv.row_format(pooled),
            cols: input.kv.cols as u32,
            width: w.width as u32,
        })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CompressArgs {
    rope: RopeArgs,
    c: Compressor,
    step: DevicePtr,
    pooled: DevicePtr,
    done: DevicePtr,
    eps: f32,
    pad: u32,
}

// SAFETY: the struct of cuda/compress.cu, without padding.
unsafe impl Args for CompressArgs {}

pub(crate) fn stage_window(
    parts: &Parts<'_>,
    kv: &Kv,
    layer: usize,
    rows: &Act<Buffer>,
    n_rows: usize,
) -> Result<()> {
    let args = StageWindowArgs {
        rows: rows.buf.ptr(),
        staged: kv.window(layer).staged,
        format: kv.row_format(Pooled::Attention),
    };
    parts.gpu.launch(&STAGE_WINDOW, Launch::new(n_rows, 256).shared(4 * rows.cols), &args)
}

/// Which rows of which layer, and how they are rotated.
pub(crate) struct Target {
    pub(crate) layer: usize,
    pub(crate) pooled: Pooled,
    pub(crate) rope: RopeArgs,
}

pub(crate) fn compress(
    parts: &Parts<'_>,
    kv: &Kv,
    target: Target,
    input: &PoolInput<Buffer>,
    w: &CompressorWeights<Cuda>,
    (n_rows, n_spans): (usize, usize),
) -> Result<()> {
    let cols = input.kv.cols;
    let args = CompressArgs {
        rope: target.rope,
        c: Compressor::new(kv, target.layer, target.pooled, input, w)?,
        step: parts.mirror.ptr(),
        pooled: parts.projections.meeting.pooled.ptr(),
        done: parts.projections.meeting.done.ptr(),
        eps: parts.shape.config.rms_eps,
        pad: 0,
    };
    if parts.mirror.span_rows_max() <= SPAN_ROWS_MAX {
        let launch = Launch::grid2(SHARES, n_spans, 512).shared(4 * w.width);
        return parts.gpu.launch(&COMPRESS_SPAN, launch, &args);
    }
    parts.gpu.launch(&STAGE_OPEN, Launch::grid2(cols.div_ceil(256), n_rows, 256), &args)?;
    let closed_max = parts.mirror.span_rows_max().div_ceil(w.ratio);
    let launch = Launch::grid2(closed_max, n_spans, 512).shared(4 * w.width);
    parts.gpu.launch(&CLOSE_ROWS, launch, &args)
}
