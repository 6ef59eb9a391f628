//! Clamped SwiGLU and the sum of two activations.

use backend::{Act, Step};

use crate::parallel::each_row;
use crate::{Floats, Parts};

pub(crate) fn swiglu(
    cpu: Parts<'_>,
    gate: &mut Act<Floats>,
    up: &Act<Floats>,
    clamp: f32,
    step: &Step,
) {
    let (cols, kernels) = (gate.cols, cpu.kernels);
    each_row(cpu.pool, &mut gate.buf, cols, step.rows.len(), |r, gate| {
        kernels.swiglu(gate, &up.buf[r * cols..][..cols], clamp, 1.0);
    });
}

pub(crate) fn add(cpu: Parts<'_>, acc: &mut Act<Floats>, x: &Act<Floats>, step: &Step) {
    let cols = acc.cols;
    each_row(cpu.pool, &mut acc.buf, cols, step.rows.len(), |r, acc| {
        acc.iter_mut().zip(&x.buf[r * cols..]).for_each(|(a, x)| *a += x);
    });
}
