//! Everything a backend computes, in the order of the forward pass.
//!
//! `&mut` is written, `&` is read, and they never alias. Every operation covers all rows of the
//! step unless it takes a [`Count`]; a backend chooses its own decode or prefill kernel from the
//! number of rows. The coarse operations at the end have default bodies made of the simple ones:
//! the default body is the specification, and a backend overrides it where that is measurably
//! faster. At most 12 buffers an operation.

use model::Rope;

use crate::defaults;
use crate::device::{Act, Device, Ids};
use crate::error::Result;
use crate::sampler::Draw;
use crate::scratch::Scratch;
use crate::step::{Count, Step};
use crate::weights::{
    AttentionWeights, CompressorWeights, ExpertWeights, HcWeights, HeadWeights, LayerWeights,
    MoeWeights, SiteWeights,
};

/// Everything attention computes from its input before it attends.
#[derive(Debug)]
pub struct AttentionBuffers<B> {
    /// Normed query latent, `[rows, q_lora]`.
    pub q_latent: Act<B>,
    /// Rotated queries, `[rows, heads · head_dim]`.
    pub q: Act<B>,
    /// Rotated KV row, `[rows, head_dim]`, before rounding.
    pub kv: Act<B>,
    /// Compressor input of a CSA layer, `[rows, 2 · head_dim]`.
    pub csa: PoolInput<B>,
    /// Compressor input of an HCA layer, `[rows, head_dim]`.
    pub hca: PoolInput<B>,
    /// Index compressor input of a CSA layer, `[rows, 2 · index_dim]`.
    pub index: PoolInput<B>,
    /// Rotated index queries, `[rows, index_heads · index_dim]`, before rounding.
    pub index_q: Act<B>,
    /// Signed head weights without the constant factor, `[rows, index_heads]`.
    pub index_weights: Act<B>,
    /// Attention output per head, `[rows, heads · head_dim]`.
    pub heads: Act<B>,
}

/// Buffers of one attention.
#[derive(Debug)]
pub struct AttentionWork<'a, B, I> {
    /// Projections, and what attention leaves.
    pub buffers: &'a mut AttentionBuffers<B>,
    /// Compressed rows that the indexer picks, `[rows, top_k]`.
    pub picked: &'a mut Ids<I>,
}

/// Buffers of a whole layer.
#[derive(Debug)]
pub struct LayerBuffers<'a, B, I> {
    /// `[rows, streams · hidden]`.
    pub streams: &'a mut Act<B>,
    /// The site's collapsed and normed row, `[rows, hidden]`.
    pub x: &'a mut Act<B>,
    /// A sublayer's output, `[rows, hidden]`.
    pub y: &'a mut Act<B>,
    /// The site's mixing values.
    pub mix: &'a mut Act<B>,
    /// What attention works with.
    pub attention: AttentionWork<'a, B, I>,
}

/// Inputs of a compressor: what is pooled and the logits of its softmax.
#[derive(Debug)]
pub struct PoolInput<B> {
    /// k.
    pub kv: Act<B>,
    /// z, without position bias.
    pub gate: Act<B>,
}

/// Chosen experts.
#[derive(Debug)]
pub struct Routing<B, I> {
    /// `[rows, used]`, in selection order.
    pub ids: Ids<I>,
    /// `[rows, used]`, normalised and scaled.
    pub weights: Act<B>,
}

/// Buffers of one mixture of experts.
#[derive(Debug)]
pub struct ExpertBuffers<B> {
    /// `[rows, inner]`.
    pub gate: Act<B>,
    /// `[rows, inner]`.
    pub up: Act<B>,
}

/// What a query may see beyond the sliding window.
#[derive(Debug)]
pub enum Selected<'a, I> {
    /// Nothing.
    WindowOnly,
    /// Every compressed row up to the query's position.
    All,
    /// The rows whose ids are given, ascending; `min(cols, visible)` of them.
    Picked(&'a Ids<I>),
}

/// Which of a layer's two compressors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooled {
    /// Rows that attention reads.
    Attention,
    /// Rows that the indexer scores.
    Index,
}

/// The operations. See the module's head for the rules.
pub trait Ops: Device + Sized {
    /// Every `hidden` channels of a row become the token's embedding. `streams [rows, n · hidden]`.
    fn embed(
        &mut self,
        streams: &mut Act<Self::Buf>,
        table: &Self::Weight,
        step: &Step,
    ) -> Result<()>;

    /// `out[r] = w · x[r]`.
    fn matmul(
        &mut self,
        out: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &Self::Weight,
        step: &Step,
        count: Count,
    ) -> Result<()>;

    /// Rows of `w` in `n_groups` equal groups, each applied to its own slice of `x[r]`.
    fn grouped_matmul(
        &mut self,
        out: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &Self::Weight,
        n_groups: usize,
        step: &Step,
    ) -> Result<()>;

    /// `out[r] = w ⊙ x[r] / rms(x[r])`.
    fn rms_norm(
        &mut self,
        out: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &Self::Weight,
        step: &Step,
        count: Count,
    ) -> Result<()>;

    /// `out` = `x` with every `group` channels divided by their rms.
    fn rms_norm_plain(
        &mut self,
        out: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        group: usize,
        step: &Step,
        count: Count,
    ) -> Result<()>;

    /// Rotates the tail of every `head_dim` channels for the row's position, or back.
    fn rope_tail(
        &mut self,
        x: &mut Act<Self::Buf>,
        head_dim: usize,
        rope: &Rope,
        inverse: bool,
        step: &Step,
    ) -> Result<()>;

    /// Mixing values from projected logits `[rows, mix]`: pre | post | comb, comb row-major
    /// `[from, to]` (spec: model §4.1).
    fn hc_mix(
        &mut self,
        mix: &mut Act<Self::Buf>,
        logits: &Act<Self::Buf>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()>;

    /// `out[r] = Σ_s pre[s] · streams[r][s]`.
    fn hc_collapse(
        &mut self,
        out: &mut Act<Self::Buf>,
        streams: &Act<Self::Buf>,
        mix: &Act<Self::Buf>,
        step: &Step,
        count: Count,
    ) -> Result<()>;

    /// `streams[r][k] = post[k] · y[r] + Σ_j comb[j][k] · streams[r][j]`.
    fn hc_expand(
        &mut self,
        streams: &mut Act<Self::Buf>,
        y: &Act<Self::Buf>,
        mix: &Act<Self::Buf>,
        step: &Step,
    ) -> Result<()>;

    /// Collapse weights of the head from projected logits `[logit rows, streams]`.
    fn hc_head_mix(
        &mut self,
        mix: &mut Act<Self::Buf>,
        logits: &Act<Self::Buf>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()>;

    /// `out[i] = x[logit_rows[i]]`.
    fn gather_rows(
        &mut self,
        out: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        step: &Step,
    ) -> Result<()>;

    /// Rounds the step's window rows as the row format says and stages them.
    fn stage_window(
        &mut self,
        kv: &mut Self::Kv,
        layer: usize,
        rows: &Act<Self::Buf>,
        step: &Step,
    ) -> Result<()>;

    /// Stages compressor inputs (position bias added to z) and every row that closes.
    #[allow(clippy::too_many_arguments)]
    fn compress(
        &mut self,
        kv: &mut Self::Kv,
        layer: usize,
        pooled: Pooled,
        input: &PoolInput<Self::Buf>,
        w: &CompressorWeights<Self>,
        rope: &Rope,
        step: &Step,
    ) -> Result<()>;

    /// `queries` are the rotated index queries and the head weights. The `min(top_k, visible)` best index rows of each query, ascending; ties to the lowest
    /// index. Scratch is bounded whatever the context.
    fn index_top_k(
        &mut self,
        ids: &mut Ids<Self::IdBuf>,
        kv: &Self::Kv,
        layer: usize,
        queries: (&Act<Self::Buf>, &Act<Self::Buf>),
        step: &Step,
    ) -> Result<()>;

    /// Softmax over window and selected rows, with the sinks in the denominator only.
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &mut self,
        out: &mut Act<Self::Buf>,
        q: &Act<Self::Buf>,
        kv: &Self::Kv,
        layer: usize,
        selected: Selected<'_, Self::IdBuf>,
        sinks: &Self::Weight,
        step: &Step,
    ) -> Result<()>;

    /// sqrt(softplus) scores; the best of score + bias, ties to the lowest index; weights from
    /// the scores alone.
    fn route_top_k(
        &mut self,
        routing: &mut Routing<Self::Buf, Self::IdBuf>,
        logits: &Act<Self::Buf>,
        bias: &Self::Weight,
        step: &Step,
    ) -> Result<()>;

    /// Experts by token; weights from the scores.
    fn route_hash(
        &mut self,
        routing: &mut Routing<Self::Buf, Self::IdBuf>,
        logits: &Act<Self::Buf>,
        table: &Self::Weight,
        step: &Step,
    ) -> Result<()>;

    /// `out[r] = Σ_i expert_{ids[r][i]}(x[r])`, summed in selection order; the routing weight
    /// multiplies before `down`.
    fn routed_experts(
        &mut self,
        out: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &ExpertWeights<Self>,
        routing: &Routing<Self::Buf, Self::IdBuf>,
        step: &Step,
    ) -> Result<()>;

    /// `gate = silu(min(gate, clamp)) · clamp(up, ±clamp)`.
    fn swiglu(
        &mut self,
        gate: &mut Act<Self::Buf>,
        up: &Act<Self::Buf>,
        clamp: f32,
        step: &Step,
    ) -> Result<()>;

    /// `acc += x`.
    fn add(&mut self, acc: &mut Act<Self::Buf>, x: &Act<Self::Buf>, step: &Step) -> Result<()>;

    /// Where the default bodies keep their intermediates; `None` before `prepare` and in
    /// backends that override every coarse operation.
    fn scratch(&mut self) -> &mut Option<Box<Scratch<Self::Buf, Self::IdBuf>>>;

    /// First site of a step: mixing values, collapse and norm.
    fn hc_enter(
        &mut self,
        x: &mut Act<Self::Buf>,
        mix: &mut Act<Self::Buf>,
        streams: &Act<Self::Buf>,
        site: &SiteWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        defaults::hc_enter(self, x, mix, streams, site, step)
    }

    /// Expands a sublayer's output into the streams, then enters the next site.
    #[allow(clippy::too_many_arguments)]
    fn hc_next(
        &mut self,
        x: &mut Act<Self::Buf>,
        mix: &mut Act<Self::Buf>,
        streams: &mut Act<Self::Buf>,
        y: &Act<Self::Buf>,
        next: &SiteWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        self.hc_expand(streams, y, mix, step)?;
        self.hc_enter(x, mix, streams, next, step)
    }

    /// Every projection of a layer's input: queries, KV row, compressors, indexer.
    fn attn_in(
        &mut self,
        out: &mut AttentionBuffers<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &AttentionWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        defaults::attn_in(self, out, x, w, step)
    }

    /// What of [`Ops::attn_in`] is staged: the KV row and the inputs of compressors. The rest is left unspecified.
    fn attn_kv(
        &mut self,
        out: &mut AttentionBuffers<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &AttentionWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        self.attn_in(out, x, w, step)
    }

    /// Whether operations take a step that [`Step::keep_wanted`] made, of which the last layer needs no other
    /// rows once KV is staged.
    fn narrows(&self) -> bool {
        false
    }

    /// Moves the rows of `x` that want logits to its front, in their order.
    fn keep_wanted(&mut self, x: &mut Act<Self::Buf>, step: &Step) -> Result<()> {
        defaults::keep_wanted(self, x, step)
    }

    /// Turns the heads back, then the grouped and the full output projection.
    fn attn_out(
        &mut self,
        y: &mut Act<Self::Buf>,
        heads: &mut Act<Self::Buf>,
        w: &AttentionWeights<Self>,
        shape: (usize, usize),
        step: &Step,
    ) -> Result<()> {
        defaults::attn_out(self, y, heads, w, shape, step)
    }

    /// A layer's attention, from its input to its output: projections, staging of the step's rows,
    /// the choice of compressed rows, attention over them, output. `shape` is the channels of a head
    /// and the groups of the output projection.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &mut self,
        y: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &AttentionWeights<Self>,
        kv: (&mut Self::Kv, usize),
        work: AttentionWork<'_, Self::Buf, Self::IdBuf>,
        shape: (usize, usize),
        step: &Step,
    ) -> Result<()> {
        defaults::attention(self, y, x, w, kv, work, shape, step)
    }

    /// Router, routed experts and the shared expert.
    fn moe(
        &mut self,
        y: &mut Act<Self::Buf>,
        x: &Act<Self::Buf>,
        w: &MoeWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        defaults::moe(self, y, x, w, step)
    }

    /// A whole layer, whose first site was entered by [`Ops::hc_enter`] or by the layer before: attention, the
    /// site between, experts, and then the site `next`, or the streams alone without one. `shape` is as
    /// in [`Ops::attention`]. Between two layers of a step `mix` need not hold what the site says: the second
    /// finds it. False, and nothing done, where the single operations do it as well.
    #[allow(clippy::too_many_arguments)]
    fn layer(
        &mut self,
        _buffers: LayerBuffers<'_, Self::Buf, Self::IdBuf>,
        _w: &LayerWeights<Self>,
        _next: Option<&SiteWeights<Self>>,
        _kv: (&mut Self::Kv, usize),
        _shape: (usize, usize),
        _step: &Step,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Logits of the rows that want them: gather, collapse, norm, vocabulary.
    fn head(
        &mut self,
        logits: &mut Act<Self::Buf>,
        streams: &Act<Self::Buf>,
        w: &HeadWeights<Self>,
        output: &Self::Weight,
        step: &Step,
    ) -> Result<()> {
        defaults::head(self, logits, streams, w, output, step)
    }

    /// Chooses `tokens[i]` from row `draws[i].0` of `logits`, as [`crate::Sampler::draw`] does, and waits
    /// for it. Rows ascend.
    fn sample(
        &mut self,
        logits: &Act<Self::Buf>,
        draws: &[(u32, Draw)],
        tokens: &mut [u32],
    ) -> Result<()> {
        defaults::sample(self, logits, draws, tokens)
    }

    /// Whether [`Ops::sample`] is quicker than reading logits and choosing on the host.
    fn samples(&self) -> bool {
        false
    }

    /// Called by the layer function around each layer; a backend may fetch weights ahead.
    fn enter_layer(&mut self, _layer: usize, _weights: &LayerWeights<Self>) -> Result<()> {
        Ok(())
    }
}

/// A backend that another thread may use, with everything that it hands out.
pub trait SendOps: Ops + Device<Buf: Send, IdBuf: Send, Weight: Send, Kv: Send> + Send {}

impl<B> SendOps for B where B: Ops + Device<Buf: Send, IdBuf: Send, Weight: Send, Kv: Send> + Send {}
