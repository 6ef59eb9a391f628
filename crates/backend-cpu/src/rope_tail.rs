//! Rotation of the last channels of every head.
//!
//! All heads of a row turn by the same angles, so each angle's cosine and sine are computed once.

use backend::{Act, Step};
use model::Rope;

use crate::parallel::{SharedRows, part};
use crate::{Floats, Parts};

pub(crate) fn rope_tail(
    cpu: Parts<'_>,
    x: &mut Act<Floats>,
    head_dim: usize,
    rope: &Rope,
    inverse: bool,
    step: &Step,
) {
    let (dim, cols, n_rows) = (rope.dim(), x.cols, step.rows.len());
    let angles = SharedRows::new(&mut cpu.work.angles);
    let values = SharedRows::new(&mut x.buf);
    let rotate = |r: usize| {
        // SAFETY: each row is rotated once, by one thread.
        let (angles, values) = unsafe { (angles.get(r * dim, dim), values.get(r * cols, cols)) };
        for (pair, angle) in angles.chunks_exact_mut(2).enumerate() {
            let (cos, sin) = rope.cos_sin(pair, step.rows[r].pos);
            angle.copy_from_slice(&[cos, if inverse { -sin } else { sin }]);
        }
        for head in values.chunks_exact_mut(head_dim) {
            rotate_tail(head, angles);
        }
    };
    if n_rows <= 1 {
        return (0..n_rows).for_each(rotate);
    }
    let threads = cpu.pool.threads();
    cpu.pool.run(|thread| part(n_rows, 1, thread, threads).for_each(rotate));
}

/// Turns the last channels, in pairs, by angles given as cosine and sine.
fn rotate_tail(head: &mut [f32], angles: &[f32]) {
    let start = head.len() - angles.len();
    for (pair, angle) in head[start..].chunks_exact_mut(2).zip(angles.chunks_exact(2)) {
        let (a, b, cos, sin) = (pair[0], pair[1], angle[0], angle[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}
