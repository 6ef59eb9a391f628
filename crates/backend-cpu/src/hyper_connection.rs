//! Hyper-connections: mixing values, collapse and expand (spec: model §4.1, §4.2).

use backend::{Act, HcWeights, Result, Step};
use model::HcConfig;

use crate::parallel::{SharedRows, each_row, part};
use crate::{Cpu, Floats, Parts};

/// Channels that are expanded together: the old streams of so many are kept aside.
const CHANNELS: usize = 64;
/// Streams at most; `prepare` of any published model has four.
const STREAMS_MAX: usize = 8;

pub(crate) fn mix(
    cpu: Parts<'_>,
    mix: &mut Act<Floats>,
    logits: &Act<Floats>,
    w: &HcWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let (base, scale) = (w.base.values()?, w.scale.values()?);
    let hc = &cpu.shape.config.hc;
    let (n, cols) = (hc.n_streams, mix.cols);
    each_row(cpu.pool, &mut mix.buf, cols, step.rows.len(), |r, out| {
        let m = &logits.buf[r * logits.cols..][..logits.cols];
        for i in 0..n {
            out[i] = sigmoid(m[i] * scale[0] + base[i]) + hc.eps;
            out[n + i] = 2.0 * sigmoid(m[n + i] * scale[1] + base[n + i]);
        }
        let comb = &mut out[2 * n..];
        for i in 0..n * n {
            comb[i] = m[2 * n + i] * scale[2] + base[2 * n + i];
        }
        sinkhorn(comb, n, hc);
    });
    Ok(())
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
        let pre = &mix.buf[r * mix.cols..][..n];
        let streams = &streams.buf[r * streams.cols..][..n * hidden];
        out.fill(0.0);
        for (stream, pre) in streams.chunks_exact(hidden).zip(pre) {
            out.iter_mut().zip(stream).for_each(|(o, v)| *o += pre * v);
        }
    });
}

pub(crate) fn expand(
    cpu: Parts<'_>,
    streams: &mut Act<Floats>,
    y: &Act<Floats>,
    mix: &Act<Floats>,
    step: &Step,
) {
    let (n, hidden, cols) = (cpu.shape.config.hc.n_streams, y.cols, streams.cols);
    assert!(n <= STREAMS_MAX, "{n} streams, at most {STREAMS_MAX}");
    // Channels are independent, so that even one row is divided among threads.
    let pieces = hidden.div_ceil(CHANNELS);
    let shared = SharedRows::new(&mut streams.buf);
    let (threads, n_rows) = (cpu.pool.threads(), step.rows.len());
    cpu.pool.run(|thread| {
        let mut old = [[0f32; CHANNELS]; STREAMS_MAX];
        for piece in part(n_rows * pieces, 1, thread, threads) {
            let (r, first) = (piece / pieces, piece % pieces * CHANNELS);
            let len = CHANNELS.min(hidden - first);
            let mix = &mix.buf[r * mix.cols..][..mix.cols];
            let (post, comb) = (&mix[n..2 * n], &mix[2 * n..]);
            let y = &y.buf[r * hidden + first..][..len];
            for s in 0..n {
                // SAFETY: each piece of channels belongs to one thread, and this borrow ends here.
                let stream = unsafe { shared.get(r * cols + s * hidden + first, len) };
                old[s][..len].copy_from_slice(stream);
            }
            for k in 0..n {
                // SAFETY: as above.
                let stream = unsafe { shared.get(r * cols + k * hidden + first, len) };
                for (i, v) in stream.iter_mut().enumerate() {
                    let mixed: f32 = (0..n).map(|j| comb[j * n + k] * old[j][i]).sum();
                    *v = post[k] * y[i] + mixed;
                }
            }
        }
    });
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
