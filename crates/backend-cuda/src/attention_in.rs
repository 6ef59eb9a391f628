//! Every projection of a layer's input for few rows: those that read the same input in one launch, the
//! norms and rotations that follow in another.

use backend::{Act, AttentionBuffers, AttentionWeights, Result, Shape};
use model::LayerKind;

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::rope_tail::RopeArgs;
use crate::{Cuda, FEW_ROWS, Parts, matmul, norm};

const FINISH_HEADS: Kernel = Kernel::new("attention_in", "finish_heads");

/// Projections before their norms.
pub(crate) struct Workspace {
    q_latent_raw: Act<Buffer>,
    q_raw: Act<Buffer>,
    kv_raw: Act<Buffer>,
}

/// Rows and widths of the buffers.
fn sizes(shape: &Shape) -> (usize, [usize; 3]) {
    let c = &shape.config;
    (shape.limits.step_rows.min(FEW_ROWS), [c.q_lora_rank, c.n_heads * c.head_dim, c.head_dim])
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let (rows, cols) = sizes(shape);
        cols.iter().map(|cols| 4 * rows * cols).sum()
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let (rows, [q_latent, q, kv]) = sizes(shape);
        let act =
            |label, cols| Ok(Act { buf: gpu.alloc(label, 4 * rows * cols)?, rows, cols, label });
        Ok(Self {
            q_latent_raw: act("q_latent_raw", q_latent)?,
            q_raw: act("q_raw", q)?,
            kv_raw: act("kv_raw", kv)?,
        })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionInArgs {
    rope: RopeArgs,
    q_raw: DevicePtr,
    kv_raw: DevicePtr,
    kv_norm: DevicePtr,
    q: DevicePtr,
    kv: DevicePtr,
    index_q: DevicePtr,
    step: DevicePtr,
    n_heads: u32,
    head_dim: u32,
    n_index_heads: u32,
    index_dim: u32,
    eps: f32,
    pad: u32,
}

// SAFETY: the struct of cuda/attention_in.cu, without padding.
unsafe impl Args for AttentionInArgs {}

pub(crate) fn attn_in(
    parts: &Parts<'_>,
    out: &AttentionBuffers<Buffer>,
    x: &Act<Buffer>,
    w: &AttentionWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    let (gpu, products, work) = (parts.gpu, parts.products, parts.attention_in);
    let mut of_x = vec![(&work.q_latent_raw, w.q_a.matrix()?), (&work.kv_raw, w.kv.matrix()?)];
    if let Some(compressor) = &w.compressor {
        let pool = if w.kind == LayerKind::Csa { &out.csa } else { &out.hca };
        of_x.push((&pool.kv, compressor.kv.matrix()?));
        of_x.push((&pool.gate, compressor.gate.matrix()?));
    }
    if let Some(indexer) = &w.indexer {
        of_x.push((&out.index.kv, indexer.compressor.kv.matrix()?));
        of_x.push((&out.index.gate, indexer.compressor.gate.matrix()?));
        of_x.push((&out.index_weights, indexer.proj.matrix()?));
    }
    matmul::matmul_many(gpu, products, x, &of_x, n_rows)?;

    let eps = parts.shape.config.rms_eps;
    let norm = (out.q_latent.cols, eps);
    norm::rms_norm(gpu, &out.q_latent, &work.q_latent_raw, w.q_a_norm.values()?, norm, n_rows)?;
    let mut of_latent = vec![(&work.q_raw, w.q_b.matrix()?)];
    if let Some(indexer) = &w.indexer {
        of_latent.push((&out.index_q, indexer.q_b.matrix()?));
    }
    matmul::matmul_many(gpu, products, &out.q_latent, &of_latent, n_rows)?;
    finish(parts, out, w, n_rows)
}

fn finish(
    parts: &Parts<'_>,
    out: &AttentionBuffers<Buffer>,
    w: &AttentionWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    let (work, head_dim) = (parts.attention_in, out.kv.cols);
    let n_heads = out.q.cols / head_dim;
    let index_dim = w.indexer.as_ref().map_or(1, |indexer| indexer.compressor.width);
    let n_index_heads = w.indexer.as_ref().map_or(0, |_| out.index_q.cols / index_dim);
    let args = AttentionInArgs {
        rope: RopeArgs::new(&w.rope, false),
        q_raw: work.q_raw.buf.ptr(),
        kv_raw: work.kv_raw.buf.ptr(),
        kv_norm: w.kv_norm.values()?,
        q: out.q.buf.ptr(),
        kv: out.kv.buf.ptr(),
        index_q: out.index_q.buf.ptr(),
        step: parts.mirror.ptr(),
        n_heads: n_heads as u32,
        head_dim: head_dim as u32,
        n_index_heads: n_index_heads as u32,
        index_dim: index_dim as u32,
        eps: parts.shape.config.rms_eps,
        pad: 0,
    };
    let launch = Launch::grid2(n_heads + 1 + n_index_heads, n_rows, 128).shared(4 * head_dim);
    parts.gpu.launch(&FINISH_HEADS, launch, &args)
}
