//! Which experts a row uses and with what weight (spec: model §4.6).

use super::{Floats, Trace, Weight};
use crate::device::Act;
use crate::ops::Routing;
use crate::step::Step;

pub(super) fn top_k(
    routing: &mut Routing<Floats, Vec<u32>>,
    logits: &Act<Floats>,
    bias: &[f32],
    scale: f32,
    step: &Step,
    trace: &mut Option<Trace>,
) {
    let choose = |scores: &[f32], _row: usize, ids: &mut [u32]| {
        let biased = |e: u32| scores[e as usize] + bias[e as usize];
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_by(|&a, &b| biased(b).total_cmp(&biased(a)).then(a.cmp(&b)));
        ids.copy_from_slice(&order[..ids.len()]);
    };
    route(routing, logits, scale, step, trace, choose);
}

pub(super) fn hash(
    routing: &mut Routing<Floats, Vec<u32>>,
    logits: &Act<Floats>,
    table: &Weight,
    scale: f32,
    step: &Step,
    trace: &mut Option<Trace>,
) {
    let choose = |_scores: &[f32], row: usize, ids: &mut [u32]| {
        let at = step.rows[row].token as usize * ids.len() * 4;
        let entries = table.tensor.data.bytes()[at..].chunks_exact(4);
        for (id, b) in ids.iter_mut().zip(entries) {
            *id = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
    };
    route(routing, logits, scale, step, trace, choose);
}

/// Scores, a choice, and weights that are the chosen scores normalised: the bias never enters.
fn route(
    routing: &mut Routing<Floats, Vec<u32>>,
    logits: &Act<Floats>,
    scale: f32,
    step: &Step,
    trace: &mut Option<Trace>,
    choose: impl Fn(&[f32], usize, &mut [u32]),
) {
    let used = routing.ids.cols;
    for (r, logits) in logits.buf.chunks_exact(logits.cols).take(step.rows.len()).enumerate() {
        let scores: Vec<f32> = logits.iter().map(|&g| softplus(g).sqrt()).collect();
        let ids = &mut routing.ids.buf[r * used..][..used];
        choose(&scores, r, ids);
        let sum: f32 = ids.iter().map(|&e| scores[e as usize]).sum();
        let weights = &mut routing.weights.buf[r * used..][..used];
        for (w, &e) in weights.iter_mut().zip(ids.iter()) {
            *w = scores[e as usize] / sum * scale;
        }
        if let Some(trace) = trace.as_mut().filter(|t| t.row(step) == Some(r)) {
            trace.push("router_scores", &scores);
            trace.push("expert_ids", &ids.iter().map(|&e| e as f32).collect::<Vec<_>>());
            trace.push("expert_weights", weights);
        }
    }
}

fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
