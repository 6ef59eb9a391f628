//! The chosen experts of every row, summed in selection order.

use super::round::met;
use super::swiglu::swiglu_value;
use super::{Floats, Reference, Weight, dot};
use crate::device::Act;
use crate::error::Result;
use crate::ops::Routing;
use crate::step::Step;
use crate::weights::ExpertWeights;

pub(super) fn routed_experts(
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &ExpertWeights<Reference>,
    routing: &Routing<Floats, Vec<u32>>,
    step: &Step,
) -> Result<()> {
    let (used, n_rows) = (routing.ids.cols, step.rows.len());
    for r in 0..n_rows {
        let x = &x.buf[r * x.cols..][..x.cols];
        let out = &mut out.buf[r * out.cols..][..out.cols];
        out.fill(0.0);
        for i in r * used..(r + 1) * used {
            let expert = routing.ids.buf[i] as usize;
            let gate = apply(&w.gate, expert, x, n_rows)?;
            let up = apply(&w.up, expert, x, n_rows)?;
            // The routing weight multiplies before `down`, as the official code does.
            let hidden: Vec<f32> = gate
                .iter()
                .zip(&up)
                .map(|(&g, &u)| routing.weights.buf[i] * swiglu_value(g, u, w.clamp))
                .collect();
            let y = apply(&w.down, expert, &hidden, n_rows)?;
            out.iter_mut().zip(y).for_each(|(o, y)| *o += y);
        }
    }
    Ok(())
}

fn apply(w: &Weight, expert: usize, x: &[f32], n_rows: usize) -> Result<Vec<f32>> {
    let x = met(x, w.rounding, n_rows);
    let mut weights = vec![0.0; w.tensor.cols];
    (0..w.tensor.rows)
        .map(|row| {
            w.row(expert, row, &mut weights)?;
            Ok(dot(&weights, &x))
        })
        .collect()
}
