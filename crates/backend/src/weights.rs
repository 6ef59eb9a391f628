//! A layer's weights as a device holds them.

use crate::device::Device;
use model::{LayerKind, Rope};

/// Projection to the mixing values of a hyper-connection site or of the head.
pub struct HcWeights<D: Device + ?Sized> {
    /// `[mix, streams · hidden]`.
    pub project: D::Weight,
    /// `[mix]`.
    pub base: D::Weight,
    /// `[3]`, or `[1]` for the head.
    pub scale: D::Weight,
}

/// A site: the mixing of the streams and the norm of the sublayer it feeds.
pub struct SiteWeights<D: Device + ?Sized> {
    /// Mixing values.
    pub hc: HcWeights<D>,
    /// `[hidden]`.
    pub norm: D::Weight,
}

/// A compressor.
pub struct CompressorWeights<D: Device + ?Sized> {
    /// `[c · width, hidden]`.
    pub kv: D::Weight,
    /// `[c · width, hidden]`.
    pub gate: D::Weight,
    /// `[ratio, c · width]`.
    pub position_bias: D::Weight,
    /// `[width]`.
    pub norm: D::Weight,
    /// Channels of a row.
    pub width: usize,
    /// Tokens per row.
    pub ratio: usize,
}

/// The lightning indexer.
pub struct IndexerWeights<D: Device + ?Sized> {
    /// `[index heads · index dim, q_lora]`.
    pub q_b: D::Weight,
    /// `[index heads, hidden]`.
    pub proj: D::Weight,
    /// Makes the index rows.
    pub compressor: CompressorWeights<D>,
}

/// Attention of one layer.
pub struct AttentionWeights<D: Device + ?Sized> {
    /// Which attention.
    pub kind: LayerKind,
    /// Rotation of queries, keys and rows.
    pub rope: Rope,
    /// `[q_lora, hidden]`.
    pub q_a: D::Weight,
    /// `[q_lora]`.
    pub q_a_norm: D::Weight,
    /// `[heads · head_dim, q_lora]`.
    pub q_b: D::Weight,
    /// `[head_dim, hidden]`.
    pub kv: D::Weight,
    /// `[head_dim]`.
    pub kv_norm: D::Weight,
    /// `[heads]`.
    pub sinks: D::Weight,
    /// `[groups · out_lora, heads · head_dim / groups]`.
    pub out_a: D::Weight,
    /// `[hidden, groups · out_lora]`.
    pub out_b: D::Weight,
    /// CSA and HCA layers.
    pub compressor: Option<CompressorWeights<D>>,
    /// CSA layers.
    pub indexer: Option<IndexerWeights<D>>,
}

/// Gate, up and down matrices, stacked when routed.
pub struct ExpertWeights<D: Device + ?Sized> {
    /// `[inner, hidden]` each.
    pub gate: D::Weight,
    /// `[inner, hidden]` each.
    pub up: D::Weight,
    /// `[hidden, inner]` each.
    pub down: D::Weight,
    /// Limit of gate (from above) and up (both sides) before SwiGLU.
    pub clamp: f32,
}

/// How experts are chosen.
pub enum RouterWeights<D: Device + ?Sized> {
    /// `[experts]`, added for selection only.
    TopK {
        /// The bias.
        bias: D::Weight,
    },
    /// Expert ids by token, `[vocab, used]`.
    Hash {
        /// The table.
        table: D::Weight,
    },
}

/// Mixture of experts of one layer.
pub struct MoeWeights<D: Device + ?Sized> {
    /// `[experts, hidden]`.
    pub gate: D::Weight,
    /// Selection.
    pub router: RouterWeights<D>,
    /// Routed experts.
    pub routed: ExpertWeights<D>,
    /// The shared expert.
    pub shared: ExpertWeights<D>,
}

/// One layer.
pub struct LayerWeights<D: Device + ?Sized> {
    /// Site before the attention.
    pub attn_site: SiteWeights<D>,
    /// Attention.
    pub attn: AttentionWeights<D>,
    /// Site before the experts.
    pub ffn_site: SiteWeights<D>,
    /// Experts.
    pub moe: MoeWeights<D>,
}

/// Collapse, norm and projection to the vocabulary.
pub struct HeadWeights<D: Device + ?Sized> {
    /// Collapse of the streams.
    pub hc: HcWeights<D>,
    /// `[hidden]`.
    pub norm: D::Weight,
}
