//! Intermediates of the coarse operations' default bodies: allocated once, by `prepare`.

use crate::device::{Act, Device, Shape};
use crate::error::Result;
use crate::ops::{ExpertBuffers, Ops, Routing};

/// One buffer for each intermediate.
#[derive(Debug)]
pub struct Scratch<B, I> {
    /// Streams divided by their rms, `[rows, streams · hidden]`.
    pub flat: Act<B>,
    /// Projected mixing logits, `[rows, mix]`.
    pub mix_logits: Act<B>,
    pub(crate) collapsed: Act<B>,
    /// Query latent before its norm, `[rows, q_lora]`.
    pub q_latent_raw: Act<B>,
    /// Queries before their norm, `[rows, heads · head_dim]`.
    pub q_raw: Act<B>,
    /// KV row before its norm, `[rows, head_dim]`.
    pub kv_raw: Act<B>,
    /// Grouped output of attention, `[rows, groups · out_lora]`.
    pub out_low: Act<B>,
    /// Router logits, `[rows, experts]`.
    pub router_logits: Act<B>,
    /// Chosen experts.
    pub routing: Routing<B, I>,
    /// Gate and up of the shared expert.
    pub shared: ExpertBuffers<B>,
    /// Its output, `[rows, hidden]`.
    pub shared_out: Act<B>,
    pub(crate) head_streams: Act<B>,
    pub(crate) head_flat: Act<B>,
    pub(crate) head_logits: Act<B>,
    pub(crate) head_mix: Act<B>,
    pub(crate) head_collapsed: Act<B>,
    pub(crate) head_x: Act<B>,
}

impl<B, I> Scratch<B, I> {
    /// Allocates every intermediate for `shape`.
    ///
    /// # Errors
    /// Memory cannot be had.
    pub fn alloc<D: Device<Buf = B, IdBuf = I>>(be: &mut D, shape: &Shape) -> Result<Self> {
        let mut specs = specs(shape).into_iter();
        let mut next = || {
            let (label, rows, cols) = specs.next().unwrap_or_else(|| unreachable!("one per field"));
            be.alloc(label, rows, cols)
        };
        let (flat, mix_logits, collapsed) = (next()?, next()?, next()?);
        let (q_latent_raw, q_raw, kv_raw, out_low) = (next()?, next()?, next()?, next()?);
        let (router_logits, routing_weights) = (next()?, next()?);
        let shared = ExpertBuffers { gate: next()?, up: next()? };
        let shared_out = next()?;
        let (head_streams, head_flat, head_logits) = (next()?, next()?, next()?);
        let (head_mix, head_collapsed, head_x) = (next()?, next()?, next()?);
        let used = shape.config.n_experts_used;
        let ids = be.alloc_ids("expert_ids", shape.limits.step_rows, used)?;
        let routing = Routing { ids, weights: routing_weights };
        Ok(Self {
            flat,
            mix_logits,
            collapsed,
            q_latent_raw,
            q_raw,
            kv_raw,
            out_low,
            router_logits,
            routing,
            shared,
            shared_out,
            head_streams,
            head_flat,
            head_logits,
            head_mix,
            head_collapsed,
            head_x,
        })
    }

    /// Bytes that [`Scratch::alloc`] takes when values and indices are four bytes.
    pub fn bytes(shape: &Shape) -> usize {
        let floats: usize = specs(shape).iter().map(|(_, rows, cols)| 4 * rows * cols).sum();
        floats + 4 * shape.limits.step_rows * shape.config.n_experts_used
    }
}

/// Label, rows and channels of every intermediate, in the order of [`Scratch::alloc`].
fn specs(shape: &Shape) -> Vec<(&'static str, usize, usize)> {
    let (c, rows) = (&shape.config, shape.limits.step_rows);
    let logit_rows = shape.limits.logit_rows;
    let streams = c.streams_len();
    vec![
        ("hc_flat", rows, streams),
        ("hc_logits", rows, c.hc.mix_len()),
        ("hc_collapsed", rows, c.hidden),
        ("q_latent_raw", rows, c.q_lora_rank),
        ("q_raw", rows, c.n_heads * c.head_dim),
        ("kv_raw", rows, c.head_dim),
        ("attn_low", rows, c.n_out_groups * c.out_lora_rank),
        ("router_logits", rows, c.n_experts),
        ("expert_weights", rows, c.n_experts_used),
        ("shared_gate", rows, c.expert_inner),
        ("shared_up", rows, c.expert_inner),
        ("shared_out", rows, c.hidden),
        ("head_streams", logit_rows, streams),
        ("head_flat", logit_rows, streams),
        ("head_logits", logit_rows, c.hc.n_streams),
        ("head_mix", logit_rows, c.hc.n_streams),
        ("head_collapsed", logit_rows, c.hidden),
        ("final_norm", logit_rows, c.hidden),
    ]
}

/// Lends the scratch to a default body. It is taken out meanwhile, so that the body can call the
/// backend; it goes back also when the body fails.
///
/// # Panics
/// When `prepare` was not called: a programmer's error.
pub(crate) fn with_scratch<D: Ops, R>(
    be: &mut D,
    body: impl FnOnce(&mut D, &mut Scratch<D::Buf, D::IdBuf>) -> Result<R>,
) -> Result<R> {
    let mut scratch = be.scratch().take().unwrap_or_else(|| panic!("prepare comes first"));
    let result = body(be, &mut scratch);
    *be.scratch() = Some(scratch);
    result
}
