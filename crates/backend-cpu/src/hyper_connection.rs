//! Hyper-connections: mixing values, collapse and expand (spec: model §4.1, §4.2).

use std::borrow::Cow;

use backend::{Act, HcWeights, Result, SiteWeights, Step};
use model::{Config, HcConfig};
use quant::dot::{ActFormat, Acts, Expand, Kernels, Out};

use crate::matmul::matmul;
use crate::norm::{inverse_rms, normalise};
use crate::parallel::{SharedRows, each_row, for_parts, for_rows};
use crate::work::Work;
use crate::{Cpu, Floats, Parts};

/// The coarse operation `hc_next`: what a row needs before and behind the projection is one region each, not
/// five in all; where every thread has rows of its own, the projection belongs to the same region.
pub(crate) fn next(
    cpu: &mut Cpu,
    (x, mix): (&mut Act<Floats>, &mut Act<Floats>),
    (streams, y): (&mut Act<Floats>, &Act<Floats>),
    site: &SiteWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    // It goes back below, also when something fails.
    let Some(mut scratch) = cpu.scratch.take() else { panic!("prepare comes first") };
    let (flat, logits) = (&mut scratch.flat, &mut scratch.mix_logits);
    let result = handed_over(cpu, (x, mix), (streams, y), (flat, logits), site, step);
    cpu.scratch = Some(scratch);
    result
}

/// Weights of a projection that each thread may read for itself, in bytes: they stay in its second cache level.
const NEAR_WEIGHTS: usize = 128 << 10;

fn handed_over(
    cpu: &mut Cpu,
    (x, mix): (&mut Act<Floats>, &mut Act<Floats>),
    (streams, y): (&mut Act<Floats>, &Act<Floats>),
    (flat, logits): (&mut Act<Floats>, &mut Act<Floats>),
    site: &SiteWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let (n_rows, n_threads) = (step.rows.len(), cpu.threads());
    let project = site.hc.project.matrix(0);
    let by_rows = n_rows >= 2 * n_threads
        && project.rows() * project.row_bytes() <= NEAR_WEIGHTS
        && ActFormat::of(project.ty()) == ActFormat::F32;
    let Parts { pool, kernels, shape, work } = cpu.parts();
    let over = Over {
        kernels,
        config: &shape.config,
        weights: [site.hc.base.values()?, site.hc.scale.values()?, site.norm.values()?],
        cols: [x.cols, mix.cols, streams.cols],
        x: SharedRows::new(&mut x.buf),
        mix: SharedRows::new(&mut mix.buf),
        streams: SharedRows::new(&mut streams.buf),
        y,
    };
    if by_rows {
        let (inner, cols) = (flat.cols, logits.cols);
        let (flat, logits) = (SharedRows::new(&mut flat.buf), SharedRows::new(&mut logits.buf));
        for_parts(pool, n_rows, |thread, rows| {
            let (first, n) = (rows.start, rows.len());
            // SAFETY: threads have different rows.
            let (flat, logits) =
                unsafe { (flat.get(first * inner, n * inner), logits.get(first * cols, n * cols)) };
            flat.chunks_exact_mut(inner).zip(first..).for_each(|(flat, r)| over.before(r, flat));
            let acts = Acts::F32 { values: flat, cols: inner, stride: inner, index: None };
            let mut out = Out::new(logits, n, cols, cols);
            let scratch = &mut Work::thread(&work.threads, thread).kernels;
            kernels.matmul(&project, &acts, &mut out, scratch);
            logits.chunks_exact(cols).zip(first..).for_each(|(logits, r)| over.behind(r, logits));
        });
        return Ok(());
    }
    each_row(pool, &mut flat.buf, flat.cols, n_rows, |r, flat| over.before(r, flat));
    matmul(Parts { pool, kernels, shape, work }, logits, flat, &site.hc.project, n_rows);
    for_rows(pool, n_rows, |r| over.behind(r, row(logits, r)));
    Ok(())
}

/// Rows on their way from one sublayer to the next.
struct Over<'a> {
    kernels: Kernels,
    config: &'a Config,
    /// Base and scale of the mixing values, and the norm of the sublayer's input.
    weights: [Cow<'a, [f32]>; 3],
    /// Of `x`, `mix` and `streams`.
    cols: [usize; 3],
    x: SharedRows<'a, f32>,
    mix: SharedRows<'a, f32>,
    streams: SharedRows<'a, f32>,
    /// The sublayer's output.
    y: &'a Act<Floats>,
}

impl Over<'_> {
    /// The parts of row `r`: `x`, mixing values, streams.
    ///
    /// # Safety
    /// No two live results may be of the same row.
    #[allow(clippy::mut_from_ref)] // Rows are kept apart by whoever asks, as `SharedRows` wants it.
    unsafe fn row(&self, r: usize) -> [&mut [f32]; 3] {
        let [x, mix, streams] = self.cols;
        // SAFETY: the caller's promise.
        unsafe {
            [
                self.x.get(r * x, x),
                self.mix.get(r * mix, mix),
                self.streams.get(r * streams, streams),
            ]
        }
    }

    /// Expands `y` and divides the streams by their rms.
    fn before(&self, r: usize, flat: &mut [f32]) {
        // SAFETY: a row is on one thread, which takes these steps in turn.
        let [_, mix, streams] = unsafe { self.row(r) };
        expand_row(self.kernels, self.config.hc.n_streams, streams, row(self.y, r), mix);
        normalise(self.kernels, streams, self.config.rms_eps, flat);
    }

    /// Mixing values, collapse and the norm of the sublayer's input.
    fn behind(&self, r: usize, logits: &[f32]) {
        let [base, scale, norm] = &self.weights;
        // SAFETY: as above.
        let [x, mix, streams] = unsafe { self.row(r) };
        mix_row(&self.config.hc, (base, scale), logits, mix);
        collapse_row(&mix[..self.config.hc.n_streams], streams, x);
        let scale = inverse_rms(self.kernels, x, self.config.rms_eps);
        x.iter_mut().zip(&**norm).for_each(|(x, w)| *x = w * (*x * scale));
    }
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
