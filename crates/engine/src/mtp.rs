//! The MTP block: follows the main model by one token and drafts the token after the next
//! (spec: model §4.7).

use backend::{Act, Count, HeadWeights, LayerWeights, Ops, Shape, Step};
use model::{Config, MtpTensors};

use crate::activations::Activations;
use crate::core::Weights;
use crate::error::Result;
use crate::layer::layers;
use crate::load;

/// The block's weights and buffers.
pub(crate) struct Mtp<B: Ops> {
    embedding_project: B::Weight,
    streams_project: B::Weight,
    embedding_norm: B::Weight,
    streams_norm: B::Weight,
    block: [LayerWeights<B>; 1],
    head: HeadWeights<B>,
    /// Normed embedding and its projection, `[rows, hidden]`.
    token: Act<B::Buf>,
    token_normed: Act<B::Buf>,
    token_projected: Act<B::Buf>,
    /// Normed streams, `[rows, streams · hidden]`.
    normed: Act<B::Buf>,
    /// Mixing values that add one vector to every stream.
    spread: Act<B::Buf>,
    /// Streams of the last committed position of each slot.
    pending: Vec<Vec<f32>>,
    step: Step,
    /// Index of the block's KV.
    layer: usize,
    hidden: usize,
    n_streams: usize,
    /// The main model's streams while the block runs, `[rows, streams · hidden]`.
    rows: Vec<f32>,
    tokens: Vec<u32>,
    accepted: Vec<u32>,
}

impl<B: Ops> Mtp<B> {
    pub(crate) fn load(be: &mut B, t: &MtpTensors, shape: &Shape, n_slots: usize) -> Result<Self> {
        let (c, rows) = (&shape.config, shape.limits.step_rows);
        let clamp = |clamps: &[f32]| clamps.last().copied().unwrap_or(f32::INFINITY);
        let clamps = (clamp(&c.expert_clamp), clamp(&c.shared_clamp));
        let n = c.hc.n_streams;
        let mut spread = be.alloc("mtp_spread", rows, c.hc.mix_len())?;
        // post = 1 and comb = identity: expanding with these adds `y` to every stream.
        let mix: Vec<f32> = (0..c.hc.mix_len())
            .map(|i| match i {
                _ if i < n => 0.0,
                _ if i < 2 * n => 1.0,
                _ => f32::from(u8::from((i - 2 * n) / n == (i - 2 * n) % n)),
            })
            .collect();
        be.write(&mut spread, 0, &mix.repeat(rows))?;
        Ok(Self {
            embedding_project: be.load(&t.embedding_project)?,
            streams_project: be.load(&t.streams_project)?,
            embedding_norm: be.load_vector(&t.embedding_norm)?,
            streams_norm: be.load_vector(&t.streams_norm)?,
            block: [load::layer(be, &t.block, c, clamps)?],
            head: load::head(be, &t.hc, &t.norm)?,
            token: be.alloc("mtp_token", rows, c.hidden)?,
            token_normed: be.alloc("mtp_token_normed", rows, c.hidden)?,
            token_projected: be.alloc("mtp_token_projected", rows, c.hidden)?,
            normed: be.alloc("mtp_streams", rows, c.streams_len())?,
            spread,
            pending: vec![vec![0.0; c.streams_len()]; n_slots],
            step: Step::with_capacity(rows, n_slots, 0, shape.limits.logit_rows),
            layer: c.n_layers(),
            hidden: c.hidden,
            n_streams: n,
            rows: vec![0.0; rows * c.streams_len()],
            tokens: Vec::with_capacity(rows),
            accepted: Vec::with_capacity(n_slots),
        })
    }

    /// Bytes beside weights and KV.
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let (c, rows) = (&shape.config, shape.limits.step_rows);
        let per_row = 3 * c.hidden + 2 * c.streams_len() + c.hc.mix_len() + 1;
        4 * (rows * per_row + shape.limits.n_slots * c.streams_len())
    }

    pub(crate) fn pending(&self, slot: usize) -> &[f32] {
        &self.pending[slot]
    }

    pub(crate) fn pending_mut(&mut self, slot: usize) -> &mut [f32] {
        &mut self.pending[slot]
    }

    /// After the main layers: stages the block's window rows for the step's tokens. A token at
    /// position p is the block's input at position p − 1, with the streams of p − 1.
    pub(crate) fn follow(
        &mut self,
        be: &mut B,
        config: &Config,
        weights: &Weights<B>,
        kv: &mut B::Kv,
        acts: &mut Activations<B::Buf, B::IdBuf>,
        step: &Step,
    ) -> Result<()> {
        let width = self.n_streams * self.hidden;
        be.read(&acts.streams, 0, &mut self.rows[..step.rows.len() * width])?;
        let saved = std::mem::take(&mut self.rows);
        self.step.clear();
        let mut at = 0;
        for span in &step.spans {
            let (first, n) = (span.first_row as usize, span.n_rows as usize);
            // The very first token of a sequence follows no streams.
            let skip = usize::from(span.committed == 0);
            if n > skip {
                let tokens = step.rows[first + skip..first + n].iter().map(|r| r.token);
                self.tokens.clear();
                self.tokens.extend(tokens);
                self.step.push_span(span.slot, span.committed.saturating_sub(1), &self.tokens, &[]);
            }
            if span.committed > 0 {
                be.write(&mut acts.streams, at, &self.pending[span.slot as usize])?;
                at += 1;
            }
            be.write(&mut acts.streams, at, &saved[first * width..(first + n - 1) * width])?;
            at += n - 1;
        }
        self.rows = saved;
        if !self.step.rows.is_empty() {
            self.run(be, config, weights, kv, acts)?;
        }
        // The main model's streams are what commit and callers read.
        Ok(be.write(&mut acts.streams, 0, &self.rows[..step.rows.len() * width])?)
    }

    /// Logits for the token after `token`, which follows the slot's committed tokens but is not
    /// committed itself. Stages one row; nothing is committed.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn draft(
        &mut self,
        be: &mut B,
        config: &Config,
        weights: &Weights<B>,
        kv: &mut B::Kv,
        acts: &mut Activations<B::Buf, B::IdBuf>,
        at: (usize, u32, u32),
        out: &mut [f32],
    ) -> Result<()> {
        let (slot, len, token) = at;
        self.step.clear();
        self.step.push_span(slot as u32, len - 1, &[token], &[]);
        self.step.logit_rows.push(0);
        be.write(&mut acts.streams, 0, &self.pending[slot])?;
        self.run(be, config, weights, kv, acts)?;
        be.head(&mut acts.logits, &acts.streams, &self.head, &weights.output, &self.step)?;
        Ok(be.read(&acts.logits, 0, out)?)
    }

    /// Keeps the window rows and the last streams of what was accepted.
    pub(crate) fn commit(
        &mut self,
        be: &mut B,
        kv: &mut B::Kv,
        streams: &Act<B::Buf>,
        step: &Step,
        accepted: &[u32],
    ) -> Result<()> {
        self.accepted.clear();
        for (span, &n) in step.spans.iter().zip(accepted) {
            if self.step.spans.iter().any(|s| s.slot == span.slot) {
                let rows = if span.committed == 0 { n.saturating_sub(1) } else { n };
                self.accepted.push(rows);
            }
            if n > 0 {
                let last = (span.first_row + n - 1) as usize;
                be.read(streams, last, &mut self.pending[span.slot as usize])?;
            }
        }
        let layers = self.layer..self.layer + 1;
        Ok(be.commit(kv, &self.step, layers, &self.accepted)?)
    }

    /// The block over `self.step`, whose streams lie in `acts.streams`.
    fn run(
        &mut self,
        be: &mut B,
        config: &Config,
        weights: &Weights<B>,
        kv: &mut B::Kv,
        acts: &mut Activations<B::Buf, B::IdBuf>,
    ) -> Result<()> {
        let (step, n) = (&self.step, self.n_streams);
        be.begin(step)?;
        be.embed(&mut self.token, &weights.embedding, step)?;
        let (token, normed) = (&self.token, &mut self.token_normed);
        be.rms_norm(normed, token, &self.embedding_norm, step, Count::Rows)?;
        let projected = &mut self.token_projected;
        be.matmul(projected, normed, &self.embedding_project, step, Count::Rows)?;
        split_streams(&mut acts.streams, n);
        split_streams(&mut self.normed, n);
        let per_stream = Count::Streams(n);
        let result = be
            .rms_norm(&mut self.normed, &acts.streams, &self.streams_norm, step, per_stream)
            .and_then(|()| {
                let (out, project) = (&mut acts.streams, &self.streams_project);
                be.matmul(out, &self.normed, project, step, per_stream)
            });
        join_streams(&mut acts.streams, n);
        join_streams(&mut self.normed, n);
        result?;
        be.hc_expand(&mut acts.streams, &self.token_projected, &self.spread, step)?;
        layers(be, config, &self.block, (self.layer, None), kv, acts, (step, None))?;
        Ok(be.submit()?)
    }
}

/// Views every stream of a row as a row of its own; the memory is the same.
fn split_streams<T>(act: &mut Act<T>, n: usize) {
    act.rows *= n;
    act.cols /= n;
}

fn join_streams<T>(act: &mut Act<T>, n: usize) {
    act.rows /= n;
    act.cols *= n;
}
