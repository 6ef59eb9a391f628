//! Rotation of tails, there and back, near and far.

use model::Rope;

use super::inputs::{chunks, collect, config, filled, prepare, step, values};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;

struct RopeTail {
    heads: usize,
    head_dim: usize,
    rope_dim: usize,
    pos0: usize,
    inverse: bool,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    for (heads, head_dim, rope_dim) in [(64, 512, 64), (128, 512, 64), (3, 192, 64), (1, 96, 32)] {
        for (pos0, inverse) in [(0, false), (1_048_570, false), (4099, true)] {
            visitor.visit(&RopeTail { heads, head_dim, rope_dim, pos0, inverse });
        }
    }
}

impl Case for RopeTail {
    fn name(&self) -> String {
        let Self { heads, head_dim, rope_dim, pos0, inverse } = self;
        format!("rope_tail {heads}x{head_dim}, tail {rope_dim}, from {pos0}, inverse {inverse}")
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { nmse: 1e-9, reason: "angles near 10^6 radians, in f64 on the reference" }
    }

    fn rows(&self) -> usize {
        3
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        (config.n_heads, config.head_dim) = (self.heads, self.head_dim);
        config.rope_dim = self.rope_dim;
        prepare(be, &config, RowFormat::F32, 3)?;
        let rope = Rope::yarn(self.rope_dim, 160_000.0, 16.0, 65_536.0, 32.0, 1.0);
        let cols = self.heads * self.head_dim;
        let x = values(1, 3 * cols);
        let mut result = Vec::new();
        for range in chunks(3, chunk) {
            let mut act = filled(be, "x", cols, &x[range.start * cols..range.end * cols])?;
            let step = step(range.clone(), self.pos0, &[]);
            be.begin(&step)?;
            be.rope_tail(&mut act, self.head_dim, &rope, self.inverse, &step)?;
            collect(be, &act, range.len(), &mut result)?;
        }
        Ok(result)
    }
}
