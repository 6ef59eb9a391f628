//! Attention over the sliding window and the selected compressed rows (spec: model §4.3).
//!
//! Keys are decoded to f32 a tile at a time and met by all heads, with a running maximum and sum for
//! every head. Tiles are cut by the number of a key among those its query sees, so that a row's bits do
//! not depend on chunking; heads are independent, so that a lone row is divided among threads by heads.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use backend::{Act, HostKv, Pooled, Selected, SlotSpan, SpanRows, Step, kv_row};
use quant::TensorType;
use quant::dot::{Acts, Kernels, Out, WeightedSum, Weights};

use crate::parallel::{SharedRows, part};
use crate::work::{KEY_TILE, ThreadWork, Work};
use crate::{Floats, Parts};

/// Keys that are met while they are in the first cache level, where they were decoded.
const NEAR_KEYS: usize = 16;

/// What all queries of a call share.
pub(crate) struct Keys<'a> {
    pub(crate) kv: &'a HostKv,
    pub(crate) layer: usize,
    pub(crate) selected: Selected<'a, Vec<u32>>,
    pub(crate) sinks: &'a [f32],
}

pub(crate) fn attend(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    q: &Act<Floats>,
    keys: &Keys<'_>,
    step: &Step,
) {
    let dim = keys.kv.layout().row.dim;
    let (n_rows, n_heads, threads) = (step.rows.len(), q.cols / dim, cpu.pool.threads());
    // Many rows: a row each. Few: its heads are divided too.
    let pieces = if n_rows >= 2 * threads { 1 } else { threads.min(n_heads) };
    let outs = SharedRows::new(&mut out.buf);
    let (works, kernels) = (&cpu.work.threads, cpu.kernels);
    // Sequences are of different lengths: each thread takes the next row when it is done with one. The heads of a row
    // alone are with the thread that has turned them.
    let next = AtomicUsize::new(0);
    let alone = n_rows == 1 && pieces == threads;
    cpu.pool.run(|thread| {
        let mut work = Work::thread(works, thread);
        let mut own = alone.then_some(thread);
        let mut take = || match own.take() {
            Some(own) => Some(own),
            None if alone => None,
            None => Some(next.fetch_add(1, Relaxed)).filter(|item| *item < n_rows * pieces),
        };
        while let Some(item) = take() {
            let (r, piece) = (item / pieces, item % pieces);
            let heads = part(n_heads, 1, piece, pieces);
            let (at, len) = (r * q.cols + heads.start * dim, heads.len() * dim);
            let query = Query {
                q: &q.buf[at..at + len],
                sinks: &keys.sinks[heads.clone()],
                rows: Rows::new(keys, step, r),
            };
            // SAFETY: an item is taken once, and items are different heads of different rows.
            query.attend(kernels, unsafe { outs.get(at, len) }, &mut work);
        }
    });
}

/// The keys that one query sees, by number: window rows, then compressed ones.
struct Rows<'a> {
    kv: &'a HostKv,
    layer: usize,
    span: &'a SlotSpan,
    first_pos: usize,
    n_window: usize,
    compressed: Option<SpanRows<'a>>,
    picked: Option<&'a [u32]>,
    n_compressed: usize,
}

impl<'a> Rows<'a> {
    fn new(keys: &Keys<'a>, step: &'a Step, row: usize) -> Self {
        let (kv, layer) = (keys.kv, keys.layer);
        let (pos, span) = (step.rows[row].pos as usize, step.span_of(row));
        let first_pos = (pos + 1).saturating_sub(kv.layout().window);
        let visible = || (pos + 1) / kv.ratio(layer, Pooled::Attention);
        let (picked, n_compressed) = match keys.selected {
            Selected::WindowOnly => (None, 0),
            Selected::All => (None, visible()),
            Selected::Picked(ids) => {
                let n = ids.cols.min(visible());
                (Some(&ids.buf[row * ids.cols..][..n]), n)
            }
        };
        let compressed = (!matches!(keys.selected, Selected::WindowOnly))
            .then(|| kv.span_rows(layer, Pooled::Attention, span, step));
        let n_window = pos + 1 - first_pos;
        Self { kv, layer, span, first_pos, n_window, compressed, picked, n_compressed }
    }

    fn len(&self) -> usize {
        self.n_window + self.n_compressed
    }

    /// The stored bytes of key `number`.
    fn bytes(&self, number: usize) -> &'a [u8] {
        match (number.checked_sub(self.n_window), &self.compressed) {
            (Some(i), Some(rows)) => rows.row(self.picked.map_or(i, |ids| ids[i] as usize)),
            _ => self.kv.window_row(self.layer, self.span, self.first_pos + number),
        }
    }

    /// The bytes of the next keys from `number` on; nothing past the last.
    fn near(&self, number: usize) -> [&'a [u8]; NEAR_KEYS] {
        let mut near = [&[][..]; NEAR_KEYS];
        for (number, row) in (number..self.len()).zip(&mut near) {
            *row = self.bytes(number);
        }
        near
    }
}

/// Some heads of one row.
struct Query<'a> {
    /// `[heads, dim]`
    q: &'a [f32],
    sinks: &'a [f32],
    rows: Rows<'a>,
}

impl Query<'_> {
    fn attend(&self, kernels: Kernels, out: &mut [f32], work: &mut ThreadWork) {
        let layout = self.rows.kv.layout().row;
        let (dim, n_heads) = (layout.dim, self.sinks.len());
        let ThreadWork { keys, scores, softmax, kernels: scratch, .. } = work;
        // The sink is in the denominator only: it starts the sum and has no value.
        for (state, &sink) in softmax.iter_mut().zip(self.sinks) {
            *state = (sink, 1.0);
        }
        out.fill(0.0);
        let n_keys = self.rows.len();
        let mut near = self.rows.near(0);
        for first in (0..n_keys).step_by(KEY_TILE) {
            let n = KEY_TILE.min(n_keys - first);
            let keys = &mut keys[..n * dim];
            let all = Out::new(&mut scores[..n_heads * n], n_heads, n, n);
            for (part, keys) in keys.chunks_mut(NEAR_KEYS * dim).enumerate() {
                let at = part * NEAR_KEYS;
                let rows = &near[..keys.len() / dim];
                let ahead = self.rows.near(first + at + rows.len());
                kv_row::decode_rows(&layout, rows, &ahead, keys);
                near = ahead;
                // SAFETY: one view at a time.
                let mut scores = unsafe { all.tile(0..n_heads, at..at + keys.len() / dim) };
                products(kernels, (keys, dim), self.q, &mut scores, scratch);
            }
            for (h, scores) in scores[..n_heads * n].chunks_exact_mut(n).enumerate() {
                rescale(kernels, scores, dim, &mut softmax[h], &mut out[h * dim..][..dim]);
            }
            let sum = WeightedSum { weights: &scores[..n_heads * n], stride: n, keys, dim };
            kernels.weighted_sum(&sum, out);
        }
        for (out, (_, sum)) in out.chunks_exact_mut(dim).zip(softmax) {
            out.iter_mut().for_each(|o| *o /= *sum);
        }
    }
}

/// Turns a head's scores of one tile into weights under the new maximum, to which what was summed so
/// far is brought.
fn rescale(
    kernels: Kernels,
    scores: &mut [f32],
    dim: usize,
    (max, sum): &mut (f32, f32),
    out: &mut [f32],
) {
    let new = kernels.scale_max(scores, 1.0 / (dim as f32).sqrt(), *max);
    if new > *max {
        let factor = (*max - new).exp();
        *sum *= factor;
        out.iter_mut().for_each(|o| *o *= factor);
        *max = new;
    }
    *sum += kernels.exp_sum(scores, *max);
}

/// `scores[h][k] = q[h] · keys[k]`, `dim` values each.
pub(crate) fn products(
    kernels: Kernels,
    (keys, dim): (&[f32], usize),
    q: &[f32],
    scores: &mut Out<'_>,
    scratch: &mut quant::dot::Scratch,
) {
    let n = keys.len() / dim;
    let weights = Weights::new(TensorType::F32, bytemuck::cast_slice(keys), n, dim)
        .unwrap_or_else(|e| unreachable!("{n} rows of {dim} floats: {e}"));
    let acts = Acts::F32 { values: q, cols: dim, stride: dim, index: None };
    kernels.matmul(&weights, &acts, scores, scratch);
}
