//! RMS norms, with and without weights.

use backend::{Act, Result};
use quant::dot::Kernels;

use crate::parallel::each_row;
use crate::{Floats, Parts, Weight};

pub(crate) fn weighted(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &Weight,
    n_rows: usize,
) -> Result<()> {
    let (weights, eps, kernels) = (w.values()?, cpu.shape.config.rms_eps, cpu.kernels);
    let cols = weights.len();
    each_row(cpu.pool, &mut out.buf, cols, n_rows, |r, out| {
        let row = &x.buf[r * cols..][..cols];
        let scale = inverse_rms(kernels, row, eps);
        for ((o, v), w) in out.iter_mut().zip(row).zip(&*weights) {
            *o = w * (v * scale);
        }
    });
    Ok(())
}

/// Every `group` channels for themselves.
pub(crate) fn plain(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    group: usize,
    n_rows: usize,
) {
    let (eps, kernels, cols) = (cpu.shape.config.rms_eps, cpu.kernels, x.cols);
    each_row(cpu.pool, &mut out.buf, cols, n_rows, |r, out| {
        let row = &x.buf[r * cols..][..cols];
        for (out, x) in out.chunks_exact_mut(group).zip(row.chunks_exact(group)) {
            normalise(kernels, x, eps, out);
        }
    });
}

/// `out = x / rms(x)`.
pub(crate) fn normalise(kernels: Kernels, x: &[f32], eps: f32, out: &mut [f32]) {
    let scale = inverse_rms(kernels, x, eps);
    out.iter_mut().zip(x).for_each(|(o, v)| *o = v * scale);
}

pub(crate) fn inverse_rms(kernels: Kernels, x: &[f32], eps: f32) -> f32 {
    1.0 / (kernels.dot(x, x) / x.len() as f32 + eps).sqrt()
}
