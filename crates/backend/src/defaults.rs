//! Default bodies of the coarse operations: their specification, and what a backend that overrides one
//! falls back to.

use model::LayerKind;

use crate::device::Act;
use crate::error::Result;
use crate::ops::{AttentionBuffers, AttentionWork, Ops, Pooled, Selected};
use crate::sampler::{Draw, Sampler};
use crate::scratch::with_scratch;
use crate::step::{Count, Step};
use crate::weights::{AttentionWeights, HeadWeights, MoeWeights, RouterWeights, SiteWeights};

/// See [`Ops::hc_enter`].
///
/// # Errors
/// The backend's.
pub fn hc_enter<D: Ops>(
    be: &mut D,
    x: &mut Act<D::Buf>,
    mix: &mut Act<D::Buf>,
    streams: &Act<D::Buf>,
    site: &SiteWeights<D>,
    step: &Step,
) -> Result<()> {
    with_scratch(be, |be, s| {
        be.rms_norm_plain(&mut s.flat, streams, streams.cols, step, Count::Rows)?;
        be.matmul(&mut s.mix_logits, &s.flat, &site.hc.project, step, Count::Rows)?;
        be.hc_mix(mix, &s.mix_logits, &site.hc, step)?;
        be.hc_collapse(&mut s.collapsed, streams, mix, step, Count::Rows)?;
        be.rms_norm(x, &s.collapsed, &site.norm, step, Count::Rows)
    })
}

/// See [`Ops::attn_in`].
///
/// # Errors
/// The backend's.
pub fn attn_in<D: Ops>(
    be: &mut D,
    out: &mut AttentionBuffers<D::Buf>,
    x: &Act<D::Buf>,
    w: &AttentionWeights<D>,
    step: &Step,
) -> Result<()> {
    let head_dim = out.kv.cols;
    with_scratch(be, |be, s| {
        // Queries: low rank down, norm, up, a norm per head, rotation of the tail.
        be.matmul(&mut s.q_latent_raw, x, &w.q_a, step, Count::Rows)?;
        be.rms_norm(&mut out.q_latent, &s.q_latent_raw, &w.q_a_norm, step, Count::Rows)?;
        be.matmul(&mut s.q_raw, &out.q_latent, &w.q_b, step, Count::Rows)?;
        be.rms_norm_plain(&mut out.q, &s.q_raw, head_dim, step, Count::Rows)?;
        be.rope_tail(&mut out.q, head_dim, &w.rope, false, step)?;
        // One KV head; the same row is key and value.
        be.matmul(&mut s.kv_raw, x, &w.kv, step, Count::Rows)?;
        be.rms_norm(&mut out.kv, &s.kv_raw, &w.kv_norm, step, Count::Rows)?;
        be.rope_tail(&mut out.kv, head_dim, &w.rope, false, step)
    })?;
    if let Some(compressor) = &w.compressor {
        let pool = if w.kind == LayerKind::Csa { &mut out.csa } else { &mut out.hca };
        be.matmul(&mut pool.kv, x, &compressor.kv, step, Count::Rows)?;
        be.matmul(&mut pool.gate, x, &compressor.gate, step, Count::Rows)?;
    }
    if let Some(indexer) = &w.indexer {
        be.matmul(&mut out.index.kv, x, &indexer.compressor.kv, step, Count::Rows)?;
        be.matmul(&mut out.index.gate, x, &indexer.compressor.gate, step, Count::Rows)?;
        be.matmul(&mut out.index_q, &out.q_latent, &indexer.q_b, step, Count::Rows)?;
        be.rope_tail(&mut out.index_q, indexer.compressor.width, &w.rope, false, step)?;
        be.matmul(&mut out.index_weights, x, &indexer.proj, step, Count::Rows)?;
    }
    Ok(())
}

/// See [`Ops::attention`]. Stages the step's rows before it attends, so that a token sees itself and
/// the row it closes.
///
/// # Errors
/// The backend's.
#[allow(clippy::too_many_arguments)]
pub fn attention<D: Ops>(
    be: &mut D,
    y: &mut Act<D::Buf>,
    x: &Act<D::Buf>,
    w: &AttentionWeights<D>,
    (kv, layer): (&mut D::Kv, usize),
    AttentionWork { buffers, picked }: AttentionWork<'_, D::Buf, D::IdBuf>,
    shape: (usize, usize),
    step: &Step,
) -> Result<()> {
    be.attn_in(buffers, x, w, step)?;
    stage(be, w, (kv, layer), buffers, step)?;
    attend_staged(be, y, w, (kv, layer), AttentionWork { buffers, picked }, shape, step)
}

/// The rows that a layer adds to KV, from what [`Ops::attn_in`] or [`Ops::attn_kv`] left in `buffers`.
///
/// # Errors
/// The backend's.
pub fn stage<D: Ops>(
    be: &mut D,
    w: &AttentionWeights<D>,
    (kv, layer): (&mut D::Kv, usize),
    buffers: &AttentionBuffers<D::Buf>,
    step: &Step,
) -> Result<()> {
    be.stage_window(kv, layer, &buffers.kv, step)?;
    if let Some(compressor) = &w.compressor {
        let input = if w.kind == LayerKind::Csa { &buffers.csa } else { &buffers.hca };
        be.compress(kv, layer, Pooled::Attention, input, compressor, &w.rope, step)?;
    }
    if let Some(indexer) = &w.indexer {
        let compressor = &indexer.compressor;
        be.compress(kv, layer, Pooled::Index, &buffers.index, compressor, &w.rope, step)?;
    }
    Ok(())
}

/// What [`Ops::attention`] does once a step's rows are staged.
///
/// # Errors
/// The backend's.
pub fn attend_staged<D: Ops>(
    be: &mut D,
    y: &mut Act<D::Buf>,
    w: &AttentionWeights<D>,
    (kv, layer): (&D::Kv, usize),
    AttentionWork { buffers, picked }: AttentionWork<'_, D::Buf, D::IdBuf>,
    shape: (usize, usize),
    step: &Step,
) -> Result<()> {
    if w.indexer.is_some() {
        let queries = (&buffers.index_q, &buffers.index_weights);
        be.index_top_k(picked, kv, layer, queries, step)?;
    }
    let selected = match w.kind {
        LayerKind::SlidingWindow => Selected::WindowOnly,
        LayerKind::Hca => Selected::All,
        LayerKind::Csa => Selected::Picked(picked),
    };
    be.attend(&mut buffers.heads, &buffers.q, kv, layer, selected, &w.sinks, step)?;
    be.attn_out(y, &mut buffers.heads, w, shape, step)
}

/// See [`Ops::keep_wanted`].
///
/// # Errors
/// The backend's.
pub fn keep_wanted<D: Ops>(be: &mut D, x: &mut Act<D::Buf>, step: &Step) -> Result<()> {
    let mut values = vec![0.0; x.cols];
    for (to, &row) in step.logit_rows.iter().enumerate() {
        be.read(x, row as usize, &mut values)?;
        be.write(x, to, &values)?;
    }
    Ok(())
}

/// See [`Ops::attn_out`].
///
/// # Errors
/// The backend's.
pub fn attn_out<D: Ops>(
    be: &mut D,
    y: &mut Act<D::Buf>,
    heads: &mut Act<D::Buf>,
    w: &AttentionWeights<D>,
    (head_dim, n_groups): (usize, usize),
    step: &Step,
) -> Result<()> {
    with_scratch(be, |be, s| {
        // Values carry the key's rotation; undo it at the query's position.
        be.rope_tail(heads, head_dim, &w.rope, true, step)?;
        be.grouped_matmul(&mut s.out_low, heads, &w.out_a, n_groups, step)?;
        be.matmul(y, &s.out_low, &w.out_b, step, Count::Rows)
    })
}

/// See [`Ops::moe`].
///
/// # Errors
/// The backend's.
pub fn moe<D: Ops>(
    be: &mut D,
    y: &mut Act<D::Buf>,
    x: &Act<D::Buf>,
    w: &MoeWeights<D>,
    step: &Step,
) -> Result<()> {
    with_scratch(be, |be, s| {
        be.matmul(&mut s.router_logits, x, &w.gate, step, Count::Rows)?;
        match &w.router {
            RouterWeights::TopK { bias } => {
                be.route_top_k(&mut s.routing, &s.router_logits, bias, step)?;
            }
            RouterWeights::Hash { table } => {
                be.route_hash(&mut s.routing, &s.router_logits, table, step)?;
            }
        }
        be.routed_experts(y, x, &w.routed, &s.routing, step)?;
        be.matmul(&mut s.shared.gate, x, &w.shared.gate, step, Count::Rows)?;
        be.matmul(&mut s.shared.up, x, &w.shared.up, step, Count::Rows)?;
        be.swiglu(&mut s.shared.gate, &s.shared.up, w.shared.clamp, step)?;
        be.matmul(&mut s.shared_out, &s.shared.gate, &w.shared.down, step, Count::Rows)?;
        be.add(y, &s.shared_out, step)
    })
}

/// See [`Ops::head`].
///
/// # Errors
/// The backend's.
pub fn head<D: Ops>(
    be: &mut D,
    logits: &mut Act<D::Buf>,
    streams: &Act<D::Buf>,
    w: &HeadWeights<D>,
    output: &D::Weight,
    step: &Step,
) -> Result<()> {
    with_scratch(be, |be, s| {
        be.gather_rows(&mut s.head_streams, streams, step)?;
        let cols = streams.cols;
        be.rms_norm_plain(&mut s.head_flat, &s.head_streams, cols, step, Count::Logits)?;
        let (project, count) = (&w.hc.project, Count::Logits);
        be.matmul(&mut s.head_logits, &s.head_flat, project, step, count)?;
        be.hc_head_mix(&mut s.head_mix, &s.head_logits, &w.hc, step)?;
        be.hc_collapse(&mut s.head_collapsed, &s.head_streams, &s.head_mix, step, count)?;
        be.rms_norm(&mut s.head_x, &s.head_collapsed, &w.norm, step, count)?;
        be.matmul(logits, &s.head_x, output, step, count)
    })
}

/// See [`Ops::sample`]. Reads each row and chooses on the host.
///
/// # Errors
/// The backend's.
pub fn sample<B: Ops>(
    be: &mut B,
    logits: &Act<B::Buf>,
    draws: &[(u32, Draw)],
    tokens: &mut [u32],
) -> Result<()> {
    let mut sampler = Sampler::new(logits.cols);
    let mut row = vec![0.0; logits.cols];
    for ((i, draw), token) in draws.iter().zip(tokens) {
        be.read(logits, *i as usize, &mut row)?;
        *token = sampler.draw(&row, draw);
    }
    Ok(())
}
