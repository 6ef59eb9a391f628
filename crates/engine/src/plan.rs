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
        let anchors = anchor_budget(config, options) + state_bytes_max(config, options);
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

/// Bytes of anchors that are kept: at most what the options say, and no more than are of use. A
/// sequence leaves two for a question and its answer, seldom more than that on a page, and where
/// pages go, their anchors go.
pub(crate) fn anchor_budget(config: &Config, options: &Options) -> usize {
    let per_page = 2 * state_bytes_max(config, options);
    options.anchor_bytes.min(options.n_pages().saturating_mul(per_page))
}

/// Bytes of the largest state of one sequence, an incomplete page included.
pub(crate) fn state_bytes_max(config: &Config, options: &Options) -> usize {
    let layout = options.kv_layout(config);
    let at = |len: usize| -> usize {
        layout.layers.iter().map(|l| AnchorView { len }.bytes(l.kind, &layout)).sum()
    };
    // Compressors close after at most 128 positions.
    let largest = (options.context.saturating_sub(127)..=options.context).map(at).max();
    let pending = if options.draft { 4 * config.streams_len() } else { 0 };
    largest.unwrap_or(0) + layout.page_bytes() + pending
}
