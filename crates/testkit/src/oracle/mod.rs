//! Tiny DeepSeek V4 checkpoints that exercise every feature of the architecture.

mod file;
mod fp;
mod hash;
mod names;
mod quantise;
mod safetensors;
mod tokenizer;
mod weights;

pub use file::{Mtp, Scheme, write_gguf, write_gguf_from};
pub use hash::{fnv1a64, splitmix64_at};
pub use safetensors::{official_config, write_safetensors};
pub use weights::{Tensor, Values, Weights};

/// Shape and constants of one model, in the terms of the official `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Goes into `general.name`, not into the weights.
    pub name: String,
    /// Model width D; a multiple of 32 for the block formats, of 256 for Q4_K and Q2_K.
    pub hidden: usize,
    /// Compression ratio of each main layer: 0, 4 or 128.
    pub ratios: Vec<u32>,
    /// Query heads; a multiple of `o_groups`.
    pub heads: usize,
    /// Width of a head and of a KV row.
    pub head_dim: usize,
    /// Rotated channels at the end of a head.
    pub rope_dim: usize,
    /// Rank of the query projection.
    pub q_lora: usize,
    /// Groups of the output projection.
    pub o_groups: usize,
    /// Rank of each group of the output projection.
    pub o_lora: usize,
    /// Routed experts.
    pub experts: usize,
    /// Routed experts per token.
    pub experts_used: usize,
    /// Inner size of every expert; the same divisibility as `hidden`.
    pub moe_inter: usize,
    /// Leading layers that choose experts by token id.
    pub hash_layers: usize,
    /// Sliding window.
    pub window: usize,
    /// Heads of the indexer.
    pub index_heads: usize,
    /// Width of an index row; a power of two and at least `rope_dim`.
    pub index_dim: usize,
    /// Compressed rows that a ratio-4 layer attends to.
    pub index_top_k: usize,
    /// Residual streams.
    pub hc: usize,
    /// Sinkhorn rounds.
    pub sinkhorn: usize,
    /// Epsilon of the hyper-connections.
    pub hc_eps: f32,
    /// Epsilon of the RMS norms.
    pub rms_eps: f32,
    /// Vocabulary; at least [`Config::MIN_VOCAB`].
    pub vocab: usize,
    /// Factor on the routed experts' weights.
    pub route_scale: f32,
    /// Clamp of SwiGLU.
    pub swiglu_limit: f32,
    /// RoPE base of ratio-0 layers.
    pub rope_theta: f32,
    /// RoPE base of the other layers.
    pub compress_theta: f32,
    /// YaRN's factor.
    pub yarn_factor: f32,
    /// YaRN's original context length.
    pub yarn_original: usize,
    /// YaRN's upper rotation bound.
    pub yarn_beta_fast: f32,
    /// YaRN's lower rotation bound.
    pub yarn_beta_slow: f32,
    /// Context length.
    pub max_positions: usize,
    /// Goes into every tensor's hash.
    pub seed: u64,
    /// Scales every sublayer's output; below 1 it makes a calm network.
    pub out_gain: f64,
}

impl Config {
    /// The toy tokenizer holds 256 bytes and eight special tokens.
    pub const MIN_VOCAB: usize = 264;

    /// The model that amplifies rounding noise: for exact float paths.
    #[must_use]
    pub fn tiny_a() -> Self {
        Self {
            name: "tiny_a".to_owned(),
            hidden: 256,
            ratios: vec![0, 0, 4, 128, 4, 128],
            heads: 8,
            head_dim: 256,
            rope_dim: 64,
            q_lora: 128,
            o_groups: 2,
            o_lora: 64,
            experts: 8,
            experts_used: 3,
            moe_inter: 256,
            hash_layers: 2,
            window: 128,
            index_heads: 8,
            index_dim: 128,
            index_top_k: 8,
            hc: 4,
            sinkhorn: 20,
            hc_eps: 1e-6,
            rms_eps: 1e-6,
            vocab: 512,
            route_scale: 1.5,
            swiglu_limit: 10.0,
            rope_theta: 10_000.0,
            compress_theta: 160_000.0,
            yarn_factor: 16.0,
            yarn_original: 1024,
            yarn_beta_fast: 32.0,
            yarn_beta_slow: 1.0,
            max_positions: 16_384,
            seed: 4,
            out_gain: 1.0,
        }
    }

    /// The calm model of the same shapes: for integer activations and eight-bit caches.
    #[must_use]
    pub fn tiny_c() -> Self {
        Self { name: "tiny_c".to_owned(), seed: 21, out_gain: 0.1, ..Self::tiny_a() }
    }

    /// Main layers.
    #[must_use]
    pub fn n_layers(&self) -> usize {
        self.ratios.len()
    }
}

/// A prompt of `n` token ids that is a function of the model's seed and `n`. The special tokens 0,
/// 1 and 2 never occur.
#[must_use]
pub fn tokens_for(config: &Config, n: usize) -> Vec<u32> {
    let state = fnv1a64(&format!("{}/tokens/{n}", config.seed));
    let ids = config.vocab as u64 - 3;
    (1..=n as u64).map(|i| (splitmix64_at(state, i) % ids) as u32 + 3).collect()
}
