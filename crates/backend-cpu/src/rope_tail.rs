//! Rotation of the last channels of every head.
//!
//! All heads of a row turn by the same angles in all layers of a kind, so each angle's cosine and sine are
//! computed once a step.

use backend::{Act, Step};
use model::Rope;

use crate::parallel::each_row;
use crate::pool::Pool;
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
    let angles = cpu.work.angles.of(cpu.pool, rope, step);
    let sign = if inverse { -1.0 } else { 1.0 };
    each_row(cpu.pool, &mut x.buf, cols, n_rows, |r, values| {
        for head in values.chunks_exact_mut(head_dim) {
            rotate_tail(head, &angles[r * dim..][..dim], sign);
        }
    });
}

/// Cosines and sines of a step's positions for the rotations that its layers use: they are the same in every
/// layer.
pub(crate) struct Angles {
    of: [RopeAngles; Self::ROPES],
    /// The one to be replaced next.
    oldest: usize,
}

struct RopeAngles {
    rope: Vec<f64>,
    positions: Vec<u32>,
    /// `[rows, rotated channels]`: cosine and sine in turn.
    values: Vec<f32>,
}

impl Angles {
    /// Rotations of a model: one for window layers, one for the others.
    const ROPES: usize = 2;

    pub(crate) fn new(rows: usize, dim: usize) -> Self {
        let new = |_| RopeAngles {
            rope: Vec::with_capacity(dim / 2),
            positions: Vec::with_capacity(rows),
            values: vec![0.0; rows * dim],
        };
        Self { of: std::array::from_fn(new), oldest: 0 }
    }

    /// Bytes that [`Angles::new`] takes.
    pub(crate) fn bytes(rows: usize, dim: usize) -> usize {
        Self::ROPES * (8 * (dim / 2) + 4 * rows * (1 + dim))
    }

    /// `[rows, rotated channels]`; computed when the step or the rotation is another than before.
    pub(crate) fn of(&mut self, pool: &mut Pool, rope: &Rope, step: &Step) -> &[f32] {
        let is_known = |known: &RopeAngles| {
            known.rope == rope.inv_freq
                && step.rows.iter().map(|row| row.pos).eq(known.positions.iter().copied())
        };
        if let Some(known) = self.of.iter().position(is_known) {
            return &self.of[known].values;
        }
        let angles = &mut self.of[self.oldest];
        self.oldest = (self.oldest + 1) % Self::ROPES;
        angles.rope.clone_from(&rope.inv_freq);
        angles.positions.clear();
        angles.positions.extend(step.rows.iter().map(|row| row.pos));
        each_row(pool, &mut angles.values, rope.dim(), step.rows.len(), |r, angles| {
            for (pair, angle) in angles.chunks_exact_mut(2).enumerate() {
                let (cos, sin) = rope.cos_sin(pair, step.rows[r].pos);
                angle.copy_from_slice(&[cos, sin]);
            }
        });
        &angles.values
    }
}

/// Turns the last channels, in pairs, by angles given as cosine and sine; back where `sign` is -1.
pub(crate) fn rotate_tail(head: &mut [f32], angles: &[f32], sign: f32) {
    let start = head.len() - angles.len();
    for (pair, angle) in head[start..].chunks_exact_mut(2).zip(angles.chunks_exact(2)) {
        let (a, b, cos, sin) = (pair[0], pair[1], angle[0], sign * angle[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}
