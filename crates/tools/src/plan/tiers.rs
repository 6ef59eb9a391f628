//! The machine sizes that ds4's documentation names for this model, reproduced by arithmetic,
//! and what exact KV changes in them.
//!
//! Two rules give all of the published contexts. Where the weights fit under the limit that macOS
//! sets for the GPU (three quarters of the memory), half of what that limit leaves goes to the
//! context; the other half stays free for prefill and for other programs. Where they do not, the
//! limit has to be raised, the machine is given to the model, and everything but the system's
//! own share goes to the context.

use model::Preset;
use serde::Serialize;

use super::kv::{self, RowFormat};
use super::memory::{Needs, system_share};
use crate::layout::tensors;
use crate::recipe::Recipe;

/// Bytes a token of context costs in ds4 with Flash, everything counted: its documentation plans
/// 26 GB for a million tokens. 13,760 B of it are rows in 32-bit floats.
pub const DS4_BYTES_PER_TOKEN: f64 = 26_000.0;

/// Of [`DS4_BYTES_PER_TOKEN`], index scores and mask of a 2,048-row prefill chunk: two 32-bit
/// floats for each of the chunk's rows and every fourth token of context.
pub const DS4_SCORES_PER_TOKEN: f64 = 2.0 * 2048.0 * 4.0 / 4.0;

/// Bytes that Keid sets aside for activations, staging, anchors and scratch, whatever the context:
/// what an engine for one conversation with Flash takes, rounded up.
pub const KEID_BUFFERS: u64 = 1 << 30;

/// A published machine size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tier {
    /// Memory in bytes.
    pub memory: u64,
    /// Model, such as `Flash`.
    pub model: &'static str,
    /// Recipe's name.
    pub quant: &'static str,
    /// Published context in tokens: at least, at most.
    pub published: (u64, u64),
    /// Bytes of weights.
    pub weights: u64,
    /// Which rule holds.
    pub rule: Rule,
    /// Bytes that the rule gives to the context.
    pub for_context: u64,
    /// Bytes a token of context costs in ds4.
    pub ds4_per_token: f64,
    /// Context that the rule gives at ds4's cost, in tokens.
    pub ds4_context: u64,
    /// Bytes a token of context costs in Keid.
    pub keid_per_token: f64,
    /// Context that the same bytes hold in Keid, in tokens.
    pub keid_context: u64,
}

/// How much memory goes to the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Half of what the default GPU limit leaves.
    Shared,
    /// All but the system's share, with the limit raised.
    Dedicated,
}

/// The tiers, smallest machine first.
pub fn tiers() -> Vec<Tier> {
    const K: u64 = 1000;
    [
        (96, Preset::Flash, Recipe::Q2, (100 * K, 100 * K)),
        (128, Preset::Flash, Recipe::Q2, (250 * K, 300 * K)),
        (256, Preset::Flash, Recipe::Q4, (500 * K, 1 << 20)),
        (512, Preset::Flash, Recipe::Q4, (1000 * K, 1 << 20)),
        (512, Preset::Pro, Recipe::Q2, (900 * K, 1 << 20)),
    ]
    .into_iter()
    .map(|(gib, preset, recipe, published)| tier(gib << 30, preset, recipe, published))
    .collect()
}

/// What macOS lets the GPU wire by default on machines of this size.
pub fn default_gpu_limit(memory: u64) -> u64 {
    memory / 4 * 3
}

fn tier(memory: u64, preset: Preset, recipe: Recipe, published: (u64, u64)) -> Tier {
    let config = preset.config();
    let weights = tensors(&config, recipe).iter().map(|t| t.bytes()).sum();
    let limit = default_gpu_limit(memory);
    let (rule, for_context) = if weights < limit {
        (Rule::Shared, (limit - weights) / 2)
    } else {
        (Rule::Dedicated, memory.saturating_sub(system_share(memory) + weights))
    };

    let flash = kv::per_token(&Preset::Flash.config(), RowFormat::F32);
    let ds4_per_token = DS4_BYTES_PER_TOKEN * kv::per_token(&config, RowFormat::F32) / flash;
    let ds4_context = (for_context as f64 / ds4_per_token) as u64;
    let needs = Needs { scratch: KEID_BUFFERS, ..Needs::of(&config, 0, RowFormat::Model) };
    Tier {
        memory,
        model: if preset == Preset::Pro { "Pro" } else { "Flash" },
        quant: recipe.name(),
        published,
        weights,
        rule,
        for_context,
        ds4_per_token,
        ds4_context: ds4_context.min(config.context_max as u64),
        keid_per_token: needs.kv_per_token,
        keid_context: needs.ceiling(for_context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_give_the_published_contexts() {
        for tier in tiers() {
            let (least, most) = tier.published;
            // "About" 100K and 250 to 300K are round numbers; the rules may miss by 10 %.
            let range = least * 9 / 10..=most * 11 / 10;
            assert!(range.contains(&tier.ds4_context), "{tier:?}");
        }
    }

    #[test]
    fn exact_kv_lengthens_every_context() {
        for tier in tiers() {
            assert!(tier.keid_context >= tier.ds4_context, "{tier:?}");
            assert!(tier.keid_per_token < tier.ds4_per_token / 5.0, "{tier:?}");
        }
    }
}
