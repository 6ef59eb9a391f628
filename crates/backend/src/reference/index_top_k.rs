//! The lightning indexer's choice of compressed rows (spec: model §4.5).

use model::IndexerConfig;

use super::{Floats, Trace, dot};
use crate::device::{Act, Ids};
use crate::host_kv::HostKv;
use crate::kv_row;
use crate::ops::Pooled;
use crate::step::Step;

pub(super) fn index_top_k(
    ids: &mut Ids<Vec<u32>>,
    kv: &HostKv,
    layer: usize,
    (q, weights): (&Act<Floats>, &Act<Floats>),
    indexer: IndexerConfig,
    step: &Step,
    trace: &mut Option<Trace>,
) {
    let layout = kv.layout().index_row;
    let dim = indexer.head_dim;
    let factor = 1.0 / ((dim * indexer.n_heads) as f32).sqrt();
    let traced = trace.as_ref().and_then(|t| t.row(step));
    let mut key = vec![0.0; dim];
    for (r, row) in step.rows.iter().enumerate() {
        let visible = (row.pos as usize + 1) / 4;
        let out = &mut ids.buf[r * ids.cols..][..ids.cols];
        if visible <= ids.cols && traced != Some(r) {
            (0..visible).for_each(|i| out[i] = i as u32);
            continue;
        }
        let mut query = q.buf[r * q.cols..][..q.cols].to_vec();
        query.chunks_exact_mut(dim).for_each(|h| kv_row::round_index_query(&layout, h));
        let head_weights: Vec<f32> = weights.buf[r * indexer.n_heads..][..indexer.n_heads]
            .iter()
            .map(|w| w * factor)
            .collect();
        let rows = kv.span_rows(layer, Pooled::Index, step.span_of(r), step);
        let score = |index: usize, key: &mut [f32]| -> f32 {
            kv_row::decode(&layout, rows.row(index), key);
            let heads = query.chunks_exact(dim).zip(&head_weights);
            heads.map(|(head, w)| dot(head, key).max(0.0) * w).sum()
        };
        let scores: Vec<f32> = (0..visible).map(|i| score(i, &mut key)).collect();
        let best = best(&scores, ids.cols);
        out[..best.len()].copy_from_slice(&best);
        if let Some(trace) = trace.as_mut().filter(|_| traced == Some(r)) {
            trace.push("index_q", &query);
            trace.push("index_w", &head_weights);
            trace.push("index_score", &scores);
            trace.push("index_sel", &best.iter().map(|&i| i as f32).collect::<Vec<_>>());
        }
    }
}

/// Indices of the `k` largest scores, ascending; ties to the lowest index.
fn best(scores: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn ties_go_to_the_lowest_index() {
        assert_eq!(best(&[0.0, 1.0, 0.0, 1.0, 0.0], 3), [0, 1, 3]);
        assert_eq!(best(&[0.5; 4], 2), [0, 1]);
        assert_eq!(best(&[-1.0, -2.0], 5), [0, 1]);
    }
}
