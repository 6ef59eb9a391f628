//! The memory plan: the same arithmetic as the allocations, before anything is allocated.

use backend::{AnchorView, Device};
use gguf::Gguf;
use model::{Config, classify};

use crate::activations::Activations;
use crate::mtp::Mtp;
use crate::options::Options;

/// One line of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine {
    /// What the memory is for.
    pub label: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// What an engine will take, line by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Every allocation.
    pub lines: Vec<PlanLine>,
}

impl MemoryPlan {
    /// The plan of a model of this shape on `backend`. `weights` is the bytes of its tensors.
    pub fn new<B>(backend: &B, config: &Config, options: &Options, weights: u64) -> Self
    where
        B: backend::Ops,
    {
        let shape = options.shape(config);
        let layout = options.kv_layout(config);
        let draft = if options.draft { Mtp::<B>::bytes(&shape) } else { 0 };
        let logits = 4 * options.logit_rows * config.n_vocab;
        let activations = Activations::<B::Buf, B::IdBuf>::bytes(&shape) + logits + draft;
        let anchors = options.anchor_bytes.min(anchor_bytes_max(config, options));
        let line = |label, bytes: usize| PlanLine { label, bytes: bytes as u64 };
        Self {
            lines: vec![
                PlanLine { label: "weights", bytes: weights },
                line("KV pages", layout.n_pages * layout.page_bytes()),
                line("KV windows and open rows", layout.n_slots * layout.slot_bytes()),
                line("KV staging", layout.stage_bytes()),
                line("activations", activations),
                line("scratch", backend.scratch_bytes(&shape)),
                line("anchors", anchors),
            ],
        }
    }

    /// Bytes of all lines.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|l| l.bytes).sum()
    }

    /// Bytes of all lines but the weights: what is allocated rather than mapped.
    pub fn allocated(&self) -> u64 {
        self.lines.iter().filter(|l| l.label != "weights").map(|l| l.bytes).sum()
    }
}

/// Bytes that the tensors which an engine reads take on `backend`.
pub fn weight_bytes<B: Device>(backend: &B, gguf: &Gguf, draft: bool, n_layers: usize) -> u64 {
    let used = |name: &str| {
        let class = classify(name);
        let is_draft = class.draft || class.block.is_some_and(|b| b >= n_layers);
        draft || !is_draft
    };
    let tensors = gguf.tensors().iter().filter(|t| used(&t.name));
    tensors.map(|t| backend.weight_bytes(t.ty, &t.dims, t.n_bytes)).sum()
}

/// What anchors of full sequences could take: one every 2,048 tokens, and a few at odd places.
fn anchor_bytes_max(config: &Config, options: &Options) -> usize {
    let layout = options.kv_layout(config);
    let at = |len: usize| -> usize {
        layout.layers.iter().map(|l| AnchorView { len }.bytes(l.kind, &layout)).sum()
    };
    let periodic = options.pool_tokens / crate::slots::ANCHOR_EVERY;
    let odd = at(options.context.min(128 * 8 - 1)) + layout.page_bytes();
    periodic * at(options.context / 128 * 128) + 8 * options.n_slots * odd
}
