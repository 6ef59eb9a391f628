//! Rotation of the last channels of every head.

use model::Rope;

use super::Floats;
use crate::device::Act;
use crate::step::Step;

pub(super) fn rope_tail(
    x: &mut Act<Floats>,
    head_dim: usize,
    rope: &Rope,
    inverse: bool,
    step: &Step,
) {
    for (row, values) in step.rows.iter().zip(x.buf.chunks_exact_mut(x.cols)) {
        for head in values.chunks_exact_mut(head_dim) {
            rope.rotate_tail(head, row.pos, inverse);
        }
    }
}
