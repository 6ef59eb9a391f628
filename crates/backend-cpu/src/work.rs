//! Working memory, allocated once by `prepare`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use backend::{Sampler, Shape, taken};
use quant::dot::Scratch;

use crate::parallel::{Rounded, Shares};
use crate::rope_tail::Angles;

/// Keys that attention and the indexer look at together.
pub(crate) const KEY_TILE: usize = 256;
/// Rows whose experts are computed together: enough for each expert to meet several rows.
pub(crate) const EXPERT_ROWS: usize = 512;

/// Everything that operations write besides their outputs.
pub(crate) struct Work {
    pub(crate) threads: Vec<Mutex<ThreadWork>>,
    /// Rounded inputs of a product.
    pub(crate) rounded: Rounded,
    /// Which weight rows are taken already.
    pub(crate) shares: Shares,
    /// Rows of an input that one group uses.
    pub(crate) index: Vec<u32>,
    pub(crate) experts: ExpertWork,
    /// Pooled rows of a compressor before they are stored, and where they go.
    pub(crate) pooled: Vec<f32>,
    pub(crate) closing: Vec<(u32, u32)>,
    pub(crate) angles: Angles,
    /// Rounded index queries, `[rows, heads * dim]`.
    pub(crate) index_q: Vec<f32>,
    /// One for each thread that chooses tokens.
    pub(crate) samplers: Vec<Mutex<Sampler>>,
}

/// What one thread works in.
pub(crate) struct ThreadWork {
    pub(crate) kernels: Scratch,
    /// `[KEY_TILE, head_dim]`
    pub(crate) keys: Vec<f32>,
    /// `[heads, KEY_TILE]`
    pub(crate) scores: Vec<f32>,
    /// Running maximum and sum of every head.
    pub(crate) softmax: Vec<(f32, f32)>,
    /// Best index rows so far: score and index.
    pub(crate) best: Vec<(f32, u32)>,
    /// Two rows of a compressor: maxima and sums by channel.
    pub(crate) channels: Vec<f32>,
    /// Decoded row, router scores.
    pub(crate) row: Vec<f32>,
    pub(crate) order: Vec<u32>,
}

/// Rows of experts: a pair is a row of the step with one of its experts.
pub(crate) struct ExpertWork {
    /// Pairs sorted by expert: number of the pair, row of the step.
    pub(crate) pairs: Vec<u32>,
    pub(crate) rows: Vec<u32>,
    /// First pair of each expert, and the end.
    pub(crate) starts: Vec<u32>,
    /// `[pairs, inner]`
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    /// `[pairs, hidden]`
    pub(crate) out: Vec<f32>,
    /// Where each pair lies in the sorted order.
    pub(crate) places: Vec<u32>,
    /// Where each expert's next pair goes while they are sorted.
    pub(crate) next: Vec<u32>,
    /// 0, 1, 2, …: pairs in sorted order as an index.
    pub(crate) identity: Vec<u32>,
    /// Rounded inputs of the down products.
    pub(crate) rounded: Rounded,
}

/// Number of elements of every buffer.
struct Sizes {
    threads: usize,
    step_rows: usize,
    input: usize,
    pairs: usize,
    closed: usize,
    samplers: usize,
}

impl Sizes {
    fn new(shape: &Shape, threads: usize) -> Self {
        let (c, rows) = (&shape.config, shape.limits.step_rows);
        let widest = [c.hidden, c.q_lora_rank, c.n_heads * c.head_dim, c.expert_inner];
        let widest = widest.into_iter().chain([c.n_out_groups * c.out_lora_rank, c.streams_len()]);
        let widest = widest.max().unwrap_or(0);
        Self {
            threads,
            step_rows: rows,
            input: rows.max(shape.limits.logit_rows) * widest,
            pairs: rows.min(EXPERT_ROWS) * c.n_experts_used,
            samplers: threads.min(shape.limits.logit_rows),
            // Every slot may close one row more than its share of a step.
            closed: rows / 4 + shape.limits.n_slots.min(rows) + 1,
        }
    }
}

impl Work {
    pub(crate) fn new(shape: &Shape, threads: usize) -> Self {
        let (c, n) = (&shape.config, Sizes::new(shape, threads));
        let width = c.head_dim.max(c.indexer.head_dim);
        Self {
            threads: (0..threads).map(|_| Mutex::new(ThreadWork::new(shape))).collect(),
            rounded: Rounded::with_capacity(n.input),
            shares: Shares::new(threads),
            index: Vec::with_capacity(n.step_rows * c.n_out_groups),
            experts: ExpertWork {
                pairs: vec![0; n.pairs],
                rows: vec![0; n.pairs],
                starts: vec![0; c.n_experts + 1],
                gate: taken(n.pairs * c.expert_inner),
                up: taken(n.pairs * c.expert_inner),
                out: taken(n.pairs * c.hidden),
                places: vec![0; n.pairs],
                next: vec![0; c.n_experts],
                identity: (0..n.pairs as u32).collect(),
                rounded: Rounded::with_capacity(n.pairs * c.expert_inner),
            },
            pooled: vec![0.0; n.closed * width],
            closing: Vec::with_capacity(n.closed),
            angles: Angles::new(n.step_rows, c.rope_dim),
            index_q: vec![0.0; n.step_rows * c.indexer.n_heads * c.indexer.head_dim],
            samplers: (0..n.samplers).map(|_| Mutex::new(Sampler::new(c.n_vocab))).collect(),
        }
    }

    /// Bytes that [`Work::new`] takes, less the vectors' own heads.
    pub(crate) fn bytes(shape: &Shape, threads: usize) -> usize {
        let (c, n) = (&shape.config, Sizes::new(shape, threads));
        let width = c.head_dim.max(c.indexer.head_dim);
        Rounded::bytes(n.input)
            + Shares::bytes(threads)
            + Rounded::bytes(n.pairs * c.expert_inner)
            + 4 * (n.step_rows * c.n_out_groups + 4 * n.pairs + 2 * c.n_experts + 1)
            + 4 * n.pairs * (2 * c.expert_inner + c.hidden)
            + 4 * n.closed * width
            + 8 * n.closed
            + 4 * n.step_rows * c.indexer.n_heads * c.indexer.head_dim
            + Angles::bytes(n.step_rows, c.rope_dim)
            + n.samplers * Sampler::bytes(c.n_vocab)
            + n.threads * ThreadWork::bytes(shape)
    }

    /// The working memory of thread `thread`.
    pub(crate) fn thread(
        threads: &[Mutex<ThreadWork>],
        thread: usize,
    ) -> MutexGuard<'_, ThreadWork> {
        // Each thread locks its own, so this never waits; after a panic the content is still plain
        // numbers that are overwritten before they are read.
        threads[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadWork {
    fn sizes(shape: &Shape) -> [usize; 7] {
        let c = &shape.config;
        let dim = c.head_dim.max(c.indexer.head_dim);
        let heads = c.n_heads.max(c.indexer.n_heads);
        let best = 2 * c.indexer.top_k.max(KEY_TILE);
        let row = c.n_experts.max(c.head_dim).max(c.indexer.head_dim);
        [KEY_TILE * dim, heads * KEY_TILE, heads, best, 2 * dim, row, c.n_experts]
    }

    fn new(shape: &Shape) -> Self {
        let [keys, scores, heads, best, channels, row, experts] = Self::sizes(shape);
        Self {
            kernels: Scratch::new(),
            keys: vec![0.0; keys],
            scores: vec![0.0; scores],
            softmax: vec![(0.0, 0.0); heads],
            best: Vec::with_capacity(best),
            channels: vec![0.0; channels],
            row: vec![0.0; row],
            order: Vec::with_capacity(experts),
        }
    }

    fn bytes(shape: &Shape) -> usize {
        let [keys, scores, heads, best, channels, row, experts] = Self::sizes(shape);
        Scratch::BYTES + 4 * (keys + scores + channels + row + experts) + 8 * (heads + best)
    }
}
