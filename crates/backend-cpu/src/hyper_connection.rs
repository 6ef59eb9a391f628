//! Hyper-connections: mixing values, collapse and expand (spec: model §4.1, §4.2).

use backend::{Act, Count, HcWeights, Ops, Result, SiteWeights, Step};
use model::HcConfig;
use quant::dot::{Expand, Kernels};

use crate::norm::{inverse_rms, normalise};
use crate::parallel::{SharedRows, each_row, for_rows};
use crate::{Cpu, Floats, Parts};

/// The coarse operation `hc_next`: what a row needs before and behind the projection is one region each, not
/// five in all.
pub(crate) fn next(
    cpu: &mut Cpu,
    (x, mix): (&mut Act<Floats>, &mut Act<Floats>),
    (streams, y): (&mut Act<Floats>, &Act<Floats>),
    site: &SiteWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    // It goes back below, also when something fails.
    let Some(mut scratch) = cpu.scratch.take() else { panic!("prepare comes first") };
    expand_and_norm(cpu.parts(), streams, (y, mix), &mut scratch.flat, step);
    let (flat, logits) = (&scratch.flat, &mut scratch.mix_logits);
    let result = cpu
        .matmul(logits, flat, &site.hc.project, step, Count::Rows)
        .and_then(|()| mix_and_collapse(cpu.parts(), (x, mix), streams, logits, site, step));
    cpu.scratch = Some(scratch);
    result
}

/// Expands `y` and divides each row's streams by their rms.
fn expand_and_norm(
    cpu: Parts<'_>,
    streams: &mut Act<Floats>,
    (y, mix): (&Act<Floats>, &Act<Floats>),
    flat: &mut Act<Floats>,
    step: &Step,
) {
    let (config, kernels, cols) = (&cpu.shape.config, cpu.kernels, streams.cols);
    let n = config.hc.n_streams;
    let (streams, flat) = (SharedRows::new(&mut streams.buf), SharedRows::new(&mut flat.buf));
    for_rows(cpu.pool, step.rows.len(), |r| {
        // SAFETY: threads have different rows.
        let [streams, flat] = [&streams, &flat].map(|rows| unsafe { rows.get(r * cols, cols) });
        expand_row(kernels, n, streams, row(y, r), row(mix, r));
        normalise(kernels, streams, config.rms_eps, flat);
    });
}

/// Mixing values, collapse and the norm of the sublayer's input.
fn mix_and_collapse(
    cpu: Parts<'_>,
    (x, mix): (&mut Act<Floats>, &mut Act<Floats>),
    streams: &Act<Floats>,
    logits: &Act<Floats>,
    site: &SiteWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let (base, scale, norm) =
        (site.hc.base.values()?, site.hc.scale.values()?, site.norm.values()?);
    let (config, kernels) = (&cpu.shape.config, cpu.kernels);
    let (hidden, cols) = (x.cols, mix.cols);
    let (xs, mixes) = (SharedRows::new(&mut x.buf), SharedRows::new(&mut mix.buf));
    for_rows(cpu.pool, step.rows.len(), |r| {
        // SAFETY: threads have different rows.
        let (x, mix) = unsafe { (xs.get(r * hidden, hidden), mixes.get(r * cols, cols)) };
        mix_row(&config.hc, (&base, &scale), row(logits, r), mix);
        collapse_row(&mix[..config.hc.n_streams], row(streams, r), x);
        let scale = inverse_rms(kernels, x, config.rms_eps);
        x.iter_mut().zip(&*norm).for_each(|(x, w)| *x = w * (*x * scale));
    });
    Ok(())
}

pub(crate) fn mix(
    cpu: Parts<'_>,
    mix: &mut Act<Floats>,
    logits: &Act<Floats>,
    w: &HcWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let (base, scale) = (w.base.values()?, w.scale.values()?);
    let hc = &cpu.shape.config.hc;
    let cols = mix.cols;
    each_row(cpu.pool, &mut mix.buf, cols, step.rows.len(), |r, out| {
        mix_row(hc, (&base, &scale), row(logits, r), out);
    });
    Ok(())
}

/// Mixing values of one row: pre | post | comb.
fn mix_row(hc: &HcConfig, (base, scale): (&[f32], &[f32]), m: &[f32], out: &mut [f32]) {
    let n = hc.n_streams;
    for i in 0..n {
        out[i] = sigmoid(m[i] * scale[0] + base[i]) + hc.eps;
        out[n + i] = 2.0 * sigmoid(m[n + i] * scale[1] + base[n + i]);
    }
    let comb = &mut out[2 * n..];
    for i in 0..n * n {
        comb[i] = m[2 * n + i] * scale[2] + base[2 * n + i];
    }
    match comb.as_chunks_mut::<4>().0 {
        [a, b, c, d] if n == 4 => sinkhorn_four([a, b, c, d], hc),
        _ => sinkhorn(comb, n, hc),
    }
}

/// Softmax over rows and a column norm, then rounds of row and column norms.
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

/// As [`sinkhorn`], with a row in a vector.
fn sinkhorn_four(comb: [&mut [f32; 4]; 4], hc: &HcConfig) {
    let mut rows = comb.each_ref().map(|row| **row);
    for row in &mut rows {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let e = row.map(|v| (v - max).exp());
        let sum: f32 = e.iter().sum();
        *row = e.map(|v| v / sum + hc.eps);
    }
    four_columns(&mut rows, hc.eps);
    for _ in 1..hc.sinkhorn_iterations {
        for row in &mut rows {
            let sum: f32 = row.iter().sum();
            *row = row.map(|v| v / (sum + hc.eps));
        }
        four_columns(&mut rows, hc.eps);
    }
    comb.into_iter().zip(rows).for_each(|(out, row)| *out = row);
}

fn four_columns(rows: &mut [[f32; 4]; 4], eps: f32) {
    let [a, b, c, d] = *rows;
    let sums: [f32; 4] = std::array::from_fn(|k| ((a[k] + b[k]) + c[k]) + d[k] + eps);
    *rows = rows.map(|row| std::array::from_fn(|k| row[k] / sums[k]));
}

fn normalise_columns(comb: &mut [f32], n: usize, eps: f32) {
    for k in 0..n {
        let sum: f32 = (0..n).map(|j| comb[j * n + k]).sum();
        (0..n).for_each(|j| comb[j * n + k] /= sum + eps);
    }
}

pub(crate) fn head_mix(
    cpu: Parts<'_>,
    mix: &mut Act<Floats>,
    logits: &Act<Floats>,
    w: &HcWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let (base, scale) = (w.base.values()?, w.scale.values()?);
    let hc = &cpu.shape.config.hc;
    for i in 0..step.logit_rows.len() * hc.n_streams {
        mix.buf[i] = sigmoid(logits.buf[i] * scale[0] + base[i % hc.n_streams]) + hc.eps;
    }
    Ok(())
}

pub(crate) fn collapse(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    streams: &Act<Floats>,
    mix: &Act<Floats>,
    n_rows: usize,
) {
    let (n, hidden) = (cpu.shape.config.hc.n_streams, out.cols);
    each_row(cpu.pool, &mut out.buf, hidden, n_rows, |r, out| {
        collapse_row(&row(mix, r)[..n], row(streams, r), out);
    });
}

fn collapse_row(pre: &[f32], streams: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (stream, pre) in streams.chunks_exact(out.len()).zip(pre) {
        out.iter_mut().zip(stream).for_each(|(o, v)| *o += pre * v);
    }
}

pub(crate) fn expand(
    cpu: Parts<'_>,
    streams: &mut Act<Floats>,
    y: &Act<Floats>,
    mix: &Act<Floats>,
    step: &Step,
) {
    let (n, kernels, cols) = (cpu.shape.config.hc.n_streams, cpu.kernels, streams.cols);
    each_row(cpu.pool, &mut streams.buf, cols, step.rows.len(), |r, streams| {
        expand_row(kernels, n, streams, row(y, r), row(mix, r));
    });
}

fn expand_row(kernels: Kernels, n: usize, streams: &mut [f32], y: &[f32], mix: &[f32]) {
    kernels.expand(&Expand { y, post: &mix[n..2 * n], comb: &mix[2 * n..] }, streams);
}

/// One row of a buffer.
fn row(act: &Act<Floats>, r: usize) -> &[f32] {
    &act.buf[r * act.cols..][..act.cols]
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
