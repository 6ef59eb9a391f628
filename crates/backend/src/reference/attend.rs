//! Attention over the sliding window and the selected compressed rows (spec: model §4.3).

use super::{Floats, dot};
use crate::device::Act;
use crate::host_kv::HostKv;
use crate::kv_row;
use crate::ops::{Pooled, Selected};
use crate::step::Step;

pub(super) fn attend(
    out: &mut Act<Floats>,
    q: &Act<Floats>,
    kv: &HostKv,
    layer: usize,
    selected: &Selected<'_, Vec<u32>>,
    sinks: &[f32],
    step: &Step,
) {
    let dim = kv.layout().row.dim;
    let scale = 1.0 / (dim as f32).sqrt();
    for r in 0..step.rows.len() {
        let keys = visible_rows(kv, layer, selected, step, r);
        let heads = q.buf[r * q.cols..][..q.cols].chunks_exact(dim).zip(sinks);
        let outs = out.buf[r * q.cols..][..q.cols].chunks_exact_mut(dim);
        for ((head, &sink), out) in heads.zip(outs) {
            let scores: Vec<f32> = keys.iter().map(|key| dot(head, key) * scale).collect();
            let max = scores.iter().copied().fold(sink, f32::max);
            let mut sum = (sink - max).exp();
            out.fill(0.0);
            for (score, key) in scores.iter().zip(&keys) {
                let p = (score - max).exp();
                sum += p;
                out.iter_mut().zip(key).for_each(|(o, v)| *o += p * v);
            }
            out.iter_mut().for_each(|o| *o /= sum);
        }
    }
}

/// Every row that step row `r` may see, decoded.
fn visible_rows(
    kv: &HostKv,
    layer: usize,
    selected: &Selected<'_, Vec<u32>>,
    step: &Step,
    r: usize,
) -> Vec<Vec<f32>> {
    let layout = kv.layout().row;
    let decode = |bytes: &[u8]| {
        let mut row = vec![0.0; layout.dim];
        kv_row::decode(&layout, bytes, &mut row);
        row
    };
    let (pos, span) = (step.rows[r].pos as usize, step.span_of(r));
    let first = (pos + 1).saturating_sub(kv.layout().window);
    let mut rows: Vec<Vec<f32>> =
        (first..=pos).map(|p| decode(kv.window_row(layer, span, p))).collect();
    if let Selected::WindowOnly = selected {
        return rows;
    }
    let compressed = kv.span_rows(layer, Pooled::Attention, span, step);
    let visible = (pos + 1) / kv.ratio(layer, Pooled::Attention);
    match selected {
        Selected::WindowOnly => {}
        Selected::All => rows.extend((0..visible).map(|i| decode(compressed.row(i)))),
        Selected::Picked(ids) => {
            let picked = &ids.buf[r * ids.cols..][..ids.cols.min(visible)];
            rows.extend(picked.iter().map(|&i| decode(compressed.row(i as usize))));
        }
    }
    rows
}
