//! The lightning indexer's choice of compressed rows (spec: model §4.5).
//!
//! Index rows are scored a tile at a time and only the best are kept, so that working memory does not
//! grow with the context. Score and index order rows totally, so the choice does not depend on how the
//! rows were divided: a lone query's rows are divided among threads.

use std::cmp::Ordering;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use backend::{Act, HostKv, Ids, Pooled, RowLayout, SpanRows, Step, StepRow, kv_row};
use quant::dot::{Kernels, Out};

use crate::attend::products;
use crate::parallel::{SharedRows, part};
use crate::work::{KEY_TILE, ThreadWork, Work};
use crate::{Floats, Parts};

pub(crate) fn index_top_k(
    cpu: Parts<'_>,
    ids: &mut Ids<Vec<u32>>,
    (kv, layer): (&HostKv, usize),
    (q, weights): (&Act<Floats>, &Act<Floats>),
    step: &Step,
) {
    let (layout, indexer) = (kv.layout().index_row, cpu.shape.config.indexer);
    let (n_rows, k) = (step.rows.len(), ids.cols);
    let visible = |r: usize| visible(&step.rows[r]);
    let Parts { pool, kernels, work, .. } = cpu;
    if (0..n_rows).all(|r| visible(r) <= k) {
        let take = |(r, ids): (usize, &mut [u32])| take_all(&mut ids[..visible(r)]);
        return ids.buf.chunks_mut(k.max(1)).take(n_rows).enumerate().for_each(take);
    }
    let Work { threads: works, index_q, .. } = work;
    let rounded = SharedRows::new(index_q);
    let query = |r: usize| Query {
        kernels,
        layout: &layout,
        // SAFETY: a row is taken once, by one thread.
        q: round(&layout, &q.buf[r * q.cols..][..q.cols], unsafe {
            rounded.get(r * q.cols, q.cols)
        }),
        weights: &weights.buf[r * indexer.n_heads..][..indexer.n_heads],
        factor: 1.0 / ((layout.dim * indexer.n_heads) as f32).sqrt(),
        rows: kv.span_rows(layer, Pooled::Index, step.span_of(r), step),
        k,
    };
    let (threads, query) = (pool.threads(), &query);
    let shared = SharedRows::new(&mut ids.buf);
    let write = |r: usize, best: &mut Vec<(f32, u32)>| {
        // SAFETY: each row is written once, by one thread.
        let ids = unsafe { shared.get(r * k, k.min(visible(r))) };
        if visible(r) <= k {
            return take_all(ids);
        }
        keep_best(best, k);
        best.sort_unstable_by_key(|&(_, index)| index);
        ids.iter_mut().zip(best).for_each(|(id, (_, index))| *id = *index);
    };
    if n_rows >= threads {
        // Sequences are of different lengths: each thread takes the next row when it is done with one.
        let next = AtomicUsize::new(0);
        pool.run(|thread| {
            let mut work = Work::thread(works, thread);
            let take = || Some(next.fetch_add(1, Relaxed)).filter(|r| *r < n_rows);
            while let Some(r) = take() {
                work.best.clear();
                if visible(r) > k {
                    query(r).score(0..visible(r), &mut work);
                }
                write(r, &mut work.best);
            }
        });
        return;
    }
    for r in 0..n_rows {
        let query = query(r);
        if visible(r) <= KEY_TILE {
            // One tile: nothing to divide.
            let mut work = Work::thread(works, 0);
            work.best.clear();
            query.score(0..visible(r), &mut work);
            write(r, &mut work.best);
            continue;
        }
        pool.run(|thread| {
            let mut work = Work::thread(works, thread);
            work.best.clear();
            query.score(part(visible(r), KEY_TILE, thread, threads), &mut work);
            keep_best(&mut work.best, k);
        });
        // The first thread's list has room for another one's beside its own.
        let mut first = Work::thread(works, 0);
        for thread in 1..threads {
            let other = Work::thread(works, thread);
            first.best.extend_from_slice(&other.best);
            keep_best(&mut first.best, k);
        }
        write(r, &mut first.best);
    }
}

/// A row's queries in the basis and precision of the rows that they meet.
fn round<'a>(layout: &RowLayout, q: &[f32], out: &'a mut [f32]) -> &'a [f32] {
    out.copy_from_slice(q);
    for head in out.chunks_exact_mut(layout.dim) {
        kv_row::round_index_query(layout, head);
    }
    out
}

/// Index rows that a row of a step sees.
pub(crate) fn visible(row: &StepRow) -> usize {
    (row.pos as usize + 1) / 4
}

fn take_all(ids: &mut [u32]) {
    ids.iter_mut().enumerate().for_each(|(i, id)| *id = i as u32);
}

/// Best first; equal scores by index.
fn better(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn keep_best(best: &mut Vec<(f32, u32)>, k: usize) {
    if best.len() > k {
        best.select_nth_unstable_by(k, better);
        best.truncate(k);
    }
}

/// One row's index query.
struct Query<'a> {
    kernels: Kernels,
    layout: &'a RowLayout,
    /// `[heads, dim]`, rounded.
    q: &'a [f32],
    weights: &'a [f32],
    factor: f32,
    rows: SpanRows<'a>,
    k: usize,
}

impl Query<'_> {
    /// Adds the rows of `range` to the best so far.
    fn score(&self, range: std::ops::Range<usize>, work: &mut ThreadWork) {
        let (dim, n_heads) = (self.layout.dim, self.weights.len());
        let ThreadWork { keys, scores, best, kernels: scratch, .. } = work;
        for first in range.clone().step_by(KEY_TILE) {
            let n = KEY_TILE.min(range.end - first);
            let keys = &mut keys[..n * dim];
            for (i, key) in keys.chunks_exact_mut(dim).enumerate() {
                kv_row::decode(self.layout, self.rows.row(first + i), key);
            }
            let scores = &mut scores[..n_heads * n];
            let all = &mut Out::new(scores, n_heads, n, n);
            products(self.kernels, (keys, dim), self.q, all, scratch);
            let (total, rest) = scores.split_at_mut(n);
            self.weigh(total, rest);
            for (i, &score) in total.iter().enumerate() {
                if best.len() >= 2 * self.k.max(KEY_TILE) {
                    keep_best(best, self.k);
                }
                best.push((score, (first + i) as u32));
            }
        }
    }

    /// `total = Σ_h weight_h * max(0, score_h)`, heads in order; `total` holds the first head's scores.
    fn weigh(&self, total: &mut [f32], rest: &[f32]) {
        let weight = |h: usize| self.weights[h] * self.factor;
        total.iter_mut().for_each(|t| *t = t.max(0.0) * weight(0));
        for (h, scores) in rest.chunks_exact(total.len()).enumerate() {
            let weight = weight(h + 1);
            total.iter_mut().zip(scores).for_each(|(t, s)| *t += s.max(0.0) * weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_index() {
        let mut best: Vec<(f32, u32)> =
            [0.0, 1.0, 0.0, 1.0, 0.0].into_iter().zip(0..5).rev().collect();
        keep_best(&mut best, 3);
        best.sort_unstable_by_key(|b| b.1);
        assert_eq!(best.iter().map(|b| b.1).collect::<Vec<_>>(), [0, 1, 3]);
    }
}
