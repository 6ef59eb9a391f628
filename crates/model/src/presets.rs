//! Shapes of the published models, and two smaller ones for measuring and trying.

use crate::config::{Config, HcConfig, IndexerConfig, LayerKind};
use crate::rope::Rope;

/// A named shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// DeepSeek V4 Flash, 284B-A13B.
    Flash,
    /// DeepSeek V4 Pro, 1.6T-A49B.
    Pro,
    /// Flash widths, eight layers, 32 experts, a vocabulary of 4096: for benchmarks.
    Mid,
    /// A few hundred thousand weights, for trying things.
    Tiny,
}

impl Preset {
    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flash => "flash",
            Self::Pro => "pro",
            Self::Mid => "mid",
            Self::Tiny => "tiny",
        }
    }

    /// The shape (spec: model §1).
    pub fn config(self) -> Config {
        match self {
            Self::Flash => flash(),
            Self::Pro => pro(),
            Self::Mid => mid(),
            Self::Tiny => tiny(),
        }
    }
}

/// Ratio 4 on even layers from 2 on, 128 on odd ones; the first two are given.
fn alternating(n_layers: usize, first: LayerKind) -> Vec<LayerKind> {
    let kind = |i: usize| match i {
        0 | 1 => first,
        _ if i.is_multiple_of(2) => LayerKind::Csa,
        _ => LayerKind::Hca,
    };
    (0..n_layers).map(kind).collect()
}

fn flash() -> Config {
    let layers = alternating(43, LayerKind::SlidingWindow);
    Config {
        name: "DeepSeek V4 Flash".to_owned(),
        expert_clamp: vec![10.0; layers.len()],
        shared_clamp: vec![10.0; layers.len()],
        layers,
        n_vocab: 129_280,
        context_max: 1_048_576,
        hidden: 4096,
        n_heads: 64,
        head_dim: 512,
        rope_dim: 64,
        q_lora_rank: 1024,
        n_out_groups: 8,
        out_lora_rank: 1024,
        window: 128,
        indexer: IndexerConfig { n_heads: 64, head_dim: 128, top_k: 512 },
        hc: HcConfig { n_streams: 4, sinkhorn_iterations: 20, eps: 1e-6 },
        rms_eps: 1e-6,
        n_experts: 256,
        n_experts_used: 6,
        expert_inner: 2048,
        route_scale: 1.5,
        n_hash_layers: 3,
        rope_main: Rope::plain(64, 10_000.0),
        rope_compress: Rope::yarn(64, 160_000.0, 16.0, 65_536.0, 32.0, 1.0),
        n_mtp: 0,
    }
}

fn pro() -> Config {
    let layers = alternating(61, LayerKind::Hca);
    Config {
        name: "DeepSeek V4 Pro".to_owned(),
        expert_clamp: vec![10.0; layers.len()],
        shared_clamp: vec![10.0; layers.len()],
        layers,
        hidden: 7168,
        n_heads: 128,
        q_lora_rank: 1536,
        n_out_groups: 16,
        indexer: IndexerConfig { n_heads: 64, head_dim: 128, top_k: 1024 },
        n_experts: 384,
        expert_inner: 3072,
        route_scale: 2.5,
        ..flash()
    }
}

fn mid() -> Config {
    let layers = alternating(8, LayerKind::SlidingWindow);
    Config {
        name: "Keid synthetic mid".to_owned(),
        expert_clamp: vec![10.0; layers.len()],
        shared_clamp: vec![10.0; layers.len()],
        layers,
        n_vocab: 4096,
        n_experts: 32,
        ..flash()
    }
}

fn tiny() -> Config {
    let layers = alternating(6, LayerKind::SlidingWindow);
    Config {
        name: "Keid synthetic tiny".to_owned(),
        expert_clamp: vec![10.0; layers.len()],
        shared_clamp: vec![10.0; layers.len()],
        layers,
        n_vocab: 512,
        context_max: 16_384,
        hidden: 256,
        n_heads: 8,
        head_dim: 256,
        q_lora_rank: 256,
        n_out_groups: 2,
        out_lora_rank: 128,
        indexer: IndexerConfig { n_heads: 16, head_dim: 128, top_k: 64 },
        n_experts: 8,
        n_experts_used: 3,
        expert_inner: 256,
        n_hash_layers: 2,
        rope_compress: Rope::yarn(64, 160_000.0, 16.0, 1024.0, 32.0, 1.0),
        ..flash()
    }
}
