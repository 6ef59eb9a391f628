//! RMS norms, with and without weights.

use super::{Floats, Weight, dot};
use crate::device::Act;
use crate::error::Result;

pub(super) fn weighted(
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &Weight,
    eps: f32,
    n_rows: usize,
) -> Result<()> {
    let weights = w.values()?;
    let cols = weights.len();
    for r in 0..n_rows {
        let row = &x.buf[r * cols..][..cols];
        let scale = inverse_rms(row, eps);
        for ((o, v), w) in out.buf[r * cols..][..cols].iter_mut().zip(row).zip(&weights) {
            *o = w * (v * scale);
        }
    }
    Ok(())
}

pub(super) fn plain(out: &mut Act<Floats>, x: &Act<Floats>, group: usize, eps: f32, n_rows: usize) {
    let len = n_rows * x.cols;
    let groups = x.buf[..len].chunks_exact(group);
    for (out, x) in out.buf[..len].chunks_exact_mut(group).zip(groups) {
        let scale = inverse_rms(x, eps);
        for (o, v) in out.iter_mut().zip(x) {
            *o = v * scale;
        }
    }
}

pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}
