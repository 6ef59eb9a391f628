//! Attention: the one branch on the kind of layer.

use backend::{AttentionWeights, Ops, Pooled, Selected, Step};
use model::{Config, LayerKind};

use crate::activations::Activations;
use crate::error::Result;

/// `a.x` → `a.y`. Stages the step's rows before it attends, so that a token sees itself and the
/// row it closes.
pub(crate) fn attention<B: Ops>(
    be: &mut B,
    config: &Config,
    w: &AttentionWeights<B>,
    layer: usize,
    kv: &mut B::Kv,
    a: &mut Activations<B::Buf, B::IdBuf>,
    step: &Step,
) -> Result<()> {
    let buffers = &mut a.attention;
    be.attn_in(buffers, &a.x, w, step)?;
    be.stage_window(kv, layer, &buffers.kv, step)?;
    if let Some(compressor) = &w.compressor {
        let input = if w.kind == LayerKind::Csa { &buffers.csa } else { &buffers.hca };
        be.compress(kv, layer, Pooled::Attention, input, compressor, &w.rope, step)?;
    }
    if let Some(indexer) = &w.indexer {
        let compressor = &indexer.compressor;
        be.compress(kv, layer, Pooled::Index, &buffers.index, compressor, &w.rope, step)?;
        let queries = (&buffers.index_q, &buffers.index_weights);
        be.index_top_k(&mut a.picked, kv, layer, queries, step)?;
    }
    let selected = match w.kind {
        LayerKind::SlidingWindow => Selected::WindowOnly,
        LayerKind::Hca => Selected::All,
        LayerKind::Csa => Selected::Picked(&a.picked),
    };
    be.attend(&mut buffers.heads, &buffers.q, kv, layer, selected, &w.sinks, step)?;
    let shape = (config.head_dim, config.n_out_groups);
    Ok(be.attn_out(&mut a.y, &mut buffers.heads, w, shape, step)?)
}
