//! Clamped SwiGLU and the sum of two activations.

use super::Floats;
use super::hyper_connection::sigmoid;
use crate::device::Act;
use crate::step::Step;

pub(super) fn swiglu(gate: &mut Act<Floats>, up: &Act<Floats>, clamp: f32, step: &Step) {
    let len = step.rows.len() * gate.cols;
    for (g, &u) in gate.buf[..len].iter_mut().zip(&up.buf) {
        *g = swiglu_value(*g, u, clamp);
    }
}

/// The gate is clamped from above only, before SiLU; up on both sides.
pub(super) fn swiglu_value(gate: f32, up: f32, clamp: f32) -> f32 {
    let gate = gate.min(clamp);
    gate * sigmoid(gate) * up.clamp(-clamp, clamp)
}

pub(super) fn add(acc: &mut Act<Floats>, x: &Act<Floats>, step: &Step) {
    let len = step.rows.len() * acc.cols;
    acc.buf[..len].iter_mut().zip(&x.buf).for_each(|(a, x)| *a += x);
}
