//! Buffers that live across a layer: allocated once, to the largest step.

use backend::{Act, AttentionBuffers, AttentionWork, Ids, LayerBuffers, Ops, PoolInput, Shape};

use crate::error::Result;

/// What the layer function reads and writes.
pub(crate) struct Activations<B, I> {
    pub(crate) streams: Act<B>,
    pub(crate) x: Act<B>,
    pub(crate) y: Act<B>,
    pub(crate) mix: Act<B>,
    pub(crate) attention: AttentionBuffers<B>,
    pub(crate) picked: Ids<I>,
    pub(crate) logits: Act<B>,
}

impl<B, I> Activations<B, I> {
    pub(crate) fn alloc<D: Ops<Buf = B, IdBuf = I>>(be: &mut D, shape: &Shape) -> Result<Self> {
        let mut specs = specs(shape).into_iter();
        let mut next = || {
            let (label, rows, cols) = specs.next().unwrap_or_else(|| unreachable!("one per field"));
            be.alloc(label, rows, cols)
        };
        let (streams, x, y, mix) = (next()?, next()?, next()?, next()?);
        let attention = AttentionBuffers {
            q_latent: next()?,
            q: next()?,
            kv: next()?,
            csa: PoolInput { kv: next()?, gate: next()? },
            hca: PoolInput { kv: next()?, gate: next()? },
            index: PoolInput { kv: next()?, gate: next()? },
            index_q: next()?,
            index_weights: next()?,
            heads: next()?,
        };
        let logits = next()?;
        let top_k = shape.config.indexer.top_k.min(max_rows(shape));
        let picked = be.alloc_ids("picked_rows", shape.limits.step_rows, top_k)?;
        Ok(Self { streams, x, y, mix, attention, picked, logits })
    }

    /// What a layer reads and writes.
    pub(crate) fn of_layer(&mut self) -> LayerBuffers<'_, B, I> {
        LayerBuffers {
            streams: &mut self.streams,
            x: &mut self.x,
            y: &mut self.y,
            mix: &mut self.mix,
            attention: AttentionWork { buffers: &mut self.attention, picked: &mut self.picked },
        }
    }

    /// Bytes that [`Activations::alloc`] takes when values and indices are four bytes.
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let floats: usize = specs(shape).iter().map(|(_, rows, cols)| 4 * rows * cols).sum();
        let top_k = shape.config.indexer.top_k.min(max_rows(shape));
        floats + 4 * shape.limits.step_rows * top_k
    }
}

/// Compressed rows that the largest context can have; more are never picked.
fn max_rows(shape: &Shape) -> usize {
    (shape.limits.context / 4).max(1)
}

/// Label, rows and channels of every buffer, in the order of [`Activations::alloc`].
fn specs(shape: &Shape) -> Vec<(&'static str, usize, usize)> {
    let (c, rows) = (&shape.config, shape.limits.step_rows);
    let (heads, index) = (c.n_heads * c.head_dim, c.indexer);
    vec![
        ("streams", rows, c.streams_len()),
        ("x", rows, c.hidden),
        ("y", rows, c.hidden),
        ("hc_mix", rows, c.hc.mix_len()),
        ("q_latent", rows, c.q_lora_rank),
        ("q", rows, heads),
        ("kv_row", rows, c.head_dim),
        ("csa_kv", rows, 2 * c.head_dim),
        ("csa_gate", rows, 2 * c.head_dim),
        ("hca_kv", rows, c.head_dim),
        ("hca_gate", rows, c.head_dim),
        ("index_kv", rows, 2 * index.head_dim),
        ("index_gate", rows, 2 * index.head_dim),
        ("index_q_raw", rows, index.n_heads * index.head_dim),
        ("index_weights", rows, index.n_heads),
        ("attn_heads", rows, heads),
        ("logits", shape.limits.logit_rows, c.n_vocab),
    ]
}
