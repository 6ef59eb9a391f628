//! Hyper-connections: mixing values, collapse and expand (spec: model §4.1, §4.2).

use model::HcConfig;

use super::{Floats, Reference};
use crate::device::Act;
use crate::error::Result;
use crate::step::Step;
use crate::weights::HcWeights;

pub(super) fn mix(
    mix: &mut Act<Floats>,
    logits: &Act<Floats>,
    w: &HcWeights<Reference>,
    hc: &HcConfig,
    step: &Step,
) -> Result<()> {
    let (base, scale) = (w.base.values()?, w.scale.values()?);
    let n = hc.n_streams;
    let rows = logits.buf.chunks_exact(logits.cols).zip(mix.buf.chunks_exact_mut(mix.cols));
    for (m, out) in rows.take(step.rows.len()) {
        for i in 0..n {
            out[i] = sigmoid(m[i] * scale[0] + base[i]) + hc.eps;
            out[n + i] = 2.0 * sigmoid(m[n + i] * scale[1] + base[n + i]);
        }
        let comb = &mut out[2 * n..];
        for i in 0..n * n {
            comb[i] = m[2 * n + i] * scale[2] + base[2 * n + i];
        }
        sinkhorn(comb, n, hc);
    }
    Ok(())
}

/// Softmax over rows and a column norm, then rounds of row and column norms: the matrix becomes
/// nearly doubly stochastic.
fn sinkhorn(comb: &mut [f32], n: usize, hc: &HcConfig) {
    for row in comb.chunks_exact_mut(n) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v = *v / sum + hc.eps);
    }
    normalise_columns(comb, n, hc.eps);
    for _ in 1..hc.sinkhorn_iterations {
        for row in comb.chunks_exact_mut(n) {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum + hc.eps);
        }
        normalise_columns(comb, n, hc.eps);
    }
}

fn normalise_columns(comb: &mut [f32], n: usize, eps: f32) {
    for k in 0..n {
        let sum: f32 = (0..n).map(|j| comb[j * n + k]).sum();
        for j in 0..n {
            comb[j * n + k] /= sum + eps;
        }
    }
}

pub(super) fn head_mix(
    mix: &mut Act<Floats>,
    logits: &Act<Floats>,
    w: &HcWeights<Reference>,
    hc: &HcConfig,
    step: &Step,
) -> Result<()> {
    let (base, scale) = (w.base.values()?, w.scale.values()?);
    let n = hc.n_streams;
    for i in 0..step.logit_rows.len() * n {
        mix.buf[i] = sigmoid(logits.buf[i] * scale[0] + base[i % n]) + hc.eps;
    }
    Ok(())
}

pub(super) fn collapse(
    out: &mut Act<Floats>,
    streams: &Act<Floats>,
    mix: &Act<Floats>,
    n_streams: usize,
    n_rows: usize,
) {
    let hidden = out.cols;
    for r in 0..n_rows {
        let pre = &mix.buf[r * mix.cols..][..n_streams];
        let streams = &streams.buf[r * streams.cols..][..streams.cols];
        for (i, o) in out.buf[r * hidden..][..hidden].iter_mut().enumerate() {
            *o = (0..n_streams).map(|s| pre[s] * streams[s * hidden + i]).sum();
        }
    }
}

pub(super) fn expand(
    streams: &mut Act<Floats>,
    y: &Act<Floats>,
    mix: &Act<Floats>,
    n: usize,
    step: &Step,
) {
    let hidden = y.cols;
    let mut old = vec![0.0; n];
    for r in 0..step.rows.len() {
        let mix = &mix.buf[r * mix.cols..][..mix.cols];
        let (post, comb) = (&mix[n..2 * n], &mix[2 * n..]);
        let streams = &mut streams.buf[r * n * hidden..][..n * hidden];
        for i in 0..hidden {
            for s in 0..n {
                old[s] = streams[s * hidden + i];
            }
            for k in 0..n {
                let mixed: f32 = (0..n).map(|j| comb[j * n + k] * old[j]).sum();
                streams[k * hidden + i] = post[k] * y.buf[r * hidden + i] + mixed;
            }
        }
    }
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
