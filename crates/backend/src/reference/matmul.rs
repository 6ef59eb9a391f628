//! Matrix products: each weight row is decoded once and met by every activation row.

use super::round::met;
use super::{Floats, Weight, dot};
use crate::device::Act;
use crate::error::Result;

pub(super) fn matmul(
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &Weight,
    n_rows: usize,
) -> Result<()> {
    grouped(out, x, w, 1, n_rows)
}

pub(super) fn grouped(
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &Weight,
    n_groups: usize,
    n_rows: usize,
) -> Result<()> {
    let (rows, cols) = (w.tensor.rows, w.tensor.cols);
    assert_eq!(out.cols, rows, "{}: outputs of {}", out.label, w.tensor.name);
    assert_eq!(x.cols, cols * n_groups, "{}: inputs of {}", x.label, w.tensor.name);
    let slices = x.buf.chunks_exact(cols).take(n_rows * n_groups);
    let slices: Vec<_> = slices.map(|x| met(x, w.rounding, n_rows)).collect();
    let mut weights = vec![0.0; cols];
    for o in 0..rows {
        w.row(0, o, &mut weights)?;
        let group = o / (rows / n_groups);
        for r in 0..n_rows {
            out.buf[r * rows + o] = dot(&weights, &slices[r * n_groups + group]);
        }
    }
    Ok(())
}
