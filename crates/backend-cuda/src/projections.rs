//! Every projection of a layer's input for many rows: those that read the same input share its rounding, and
//! norms and rotations happen in place.

use backend::{Act, AttentionBuffers, AttentionWeights, AttentionWork, Pooled, Result, Selected};
use model::LayerKind;

use crate::attend::{self, Attention};
use crate::compress::{self, Target};
use crate::gpu::{Buffer, DevicePtr};
use crate::kv::Kv;
use crate::matmul::Turn;
use crate::rope_tail::{RopeArgs, rope_tail};
use crate::{Cuda, Parts, heads, index_top_k, matmul, norm};

/// See [`backend::Ops::attn_in`].
pub(crate) fn attn_in(
    parts: &Parts<'_>,
    out: &AttentionBuffers<Buffer>,
    x: &Act<Buffer>,
    w: &AttentionWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    project(parts, out, x, w, n_rows)?;
    let (rope, dim) = (RopeArgs::new(&w.rope, false), out.kv.cols);
    finish_heads(parts, &out.q, dim, rope, Some(parts.shape.config.rms_eps), n_rows)?;
    match &w.indexer {
        Some(indexer) => {
            finish_heads(parts, &out.index_q, indexer.compressor.width, rope, None, n_rows)
        }
        None => Ok(()),
    }
}

/// See [`backend::Ops::attention`], with queries that are finished and heads that are turned back by the
/// kernel between. False, and nothing done, where that is not possible.
pub(crate) fn attention(
    parts: &Parts<'_>,
    (y, x): (&Act<Buffer>, &Act<Buffer>),
    w: &AttentionWeights<Cuda>,
    (kv, layer): (&Kv, usize),
    work: &AttentionWork<'_, Buffer, Buffer>,
    n_groups: usize,
    (n_rows, n_spans): (usize, usize),
) -> Result<bool> {
    let (buffers, picked) = (&*work.buffers, &*work.picked);
    let (gpu, products) = (parts.gpu, parts.products);
    let (out_a, out_b) = (w.out_a.matrix()?, w.out_b.matrix()?);
    let Some(halves) = matmul::halves_of_heads(gpu, products, (out_a, out_b), n_groups, n_rows)
    else {
        return Ok(false);
    };
    if !attend::can_fuse(parts, kv, &buffers.q, n_groups, n_rows) {
        return Ok(false);
    }
    project(parts, buffers, x, w, n_rows)?;
    compress::stage_window(parts, kv, layer, &buffers.kv, n_rows)?;
    let rope = RopeArgs::new(&w.rope, false);
    let close = |pooled, input, weights| {
        let target = Target { layer, pooled, rope };
        compress::compress(parts, kv, target, input, weights, (n_rows, n_spans))
    };
    if let Some(compressor) = &w.compressor {
        let input = if w.kind == LayerKind::Csa { &buffers.csa } else { &buffers.hca };
        close(Pooled::Attention, input, compressor)?;
    }
    if let Some(indexer) = &w.indexer {
        close(Pooled::Index, &buffers.index, &indexer.compressor)?;
        // Where everything is selected nothing is picked, and the kernel sees that by itself.
        if parts.mirror.context() / 4 > picked.cols {
            let queries = (&buffers.index_q, &buffers.index_weights);
            index_top_k::index_top_k(parts, picked, (kv, layer), queries, Some(rope), n_rows)?;
        }
    }
    let selected = match w.kind {
        LayerKind::SlidingWindow => Selected::WindowOnly,
        LayerKind::Hca => Selected::All,
        LayerKind::Csa => Selected::Picked(picked),
    };
    let what = Attention { kv, layer, selected, sinks: w.sinks.values()?, n_rows };
    attend::attend_halves(parts, &buffers.q, &what, rope, halves.place(), n_groups)?;
    matmul::out_of_heads(gpu, products, y, &halves, (out_a, out_b), n_groups, n_rows)?;
    Ok(true)
}

/// Everything that reads x or the query latent; queries are not finished.
fn project(
    parts: &Parts<'_>,
    out: &AttentionBuffers<Buffer>,
    x: &Act<Buffer>,
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
    matmul::matmul_many(gpu, products, latent, &of_latent, n_rows)
}

fn finish_heads(
    parts: &Parts<'_>,
    x: &Act<Buffer>,
    dim: usize,
    rope: RopeArgs,
    eps: Option<f32>,
    n_rows: usize,
) -> Result<()> {
    if heads::can(dim, rope.dim()) {
        return heads::finish(parts, x, dim, rope, eps, n_rows);
    }
    if let Some(eps) = eps {
        norm::rms_norm(parts.gpu, x, x, DevicePtr::NULL, (dim, eps), n_rows)?;
    }
    rope_tail(parts, x, dim, rope, n_rows)
}

/// Turns the heads back on their way to f16, then the grouped and the full output projection. False, and
/// nothing done, where that is not possible.
pub(crate) fn attn_out(
    parts: &Parts<'_>,
    y: &Act<Buffer>,
    heads: &Act<Buffer>,
    w: &AttentionWeights<Cuda>,
    (head_dim, n_groups): (usize, usize),
    n_rows: usize,
) -> Result<bool> {
    let turn = Turn { rope: RopeArgs::new(&w.rope, true), step: parts.mirror.ptr(), head_dim };
    let weights = (w.out_a.matrix()?, w.out_b.matrix()?);
    matmul::turned_out(parts.gpu, parts.products, (y, heads), weights, n_groups, &turn, n_rows)
}
