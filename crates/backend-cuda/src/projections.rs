//! Every projection of a layer's input for many rows: those that read the same input share its rounding, and
//! norms and rotations happen in place.

use backend::{AttentionBuffers, AttentionWeights, Result};
use model::LayerKind;

use crate::gpu::{Buffer, DevicePtr};
use crate::rope_tail::{RopeArgs, rope_tail};
use crate::{Cuda, Parts, matmul, norm};

pub(crate) fn attn_in(
    parts: &Parts<'_>,
    out: &AttentionBuffers<Buffer>,
    x: &backend::Act<Buffer>,
    w: &AttentionWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    let (gpu, products, eps) = (parts.gpu, parts.products, parts.shape.config.rms_eps);
    let mut of_x = vec![(&out.q_latent, w.q_a.matrix()?), (&out.kv, w.kv.matrix()?)];
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
    let (latent, kv) = (&out.q_latent, &out.kv);
    norm::rms_norm(gpu, latent, latent, w.q_a_norm.values()?, (latent.cols, eps), n_rows)?;
    norm::rms_norm(gpu, kv, kv, w.kv_norm.values()?, (kv.cols, eps), n_rows)?;
    let rope = RopeArgs::new(&w.rope, false);
    rope_tail(parts, kv, kv.cols, rope, n_rows)?;

    let mut of_latent = vec![(&out.q, w.q_b.matrix()?)];
    if let Some(indexer) = &w.indexer {
        of_latent.push((&out.index_q, indexer.q_b.matrix()?));
    }
    matmul::matmul_many(gpu, products, latent, &of_latent, n_rows)?;
    norm::rms_norm(gpu, &out.q, &out.q, DevicePtr::NULL, (kv.cols, eps), n_rows)?;
    rope_tail(parts, &out.q, kv.cols, rope, n_rows)?;
    if let Some(indexer) = &w.indexer {
        rope_tail(parts, &out.index_q, indexer.compressor.width, rope, n_rows)?;
    }
    Ok(())
}
