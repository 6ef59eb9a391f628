//! Clamped SwiGLU, with values on both sides of the clamp, and the sum of two activations.

use super::inputs::{chunks, collect, config, filled, prepare, step, values};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;

struct SwiGlu {
    rows: usize,
    inner: usize,
    clamp: f32,
    /// Sum instead.
    add: bool,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    for (rows, inner, clamp) in [(3, 2048, 10.0), (2, 3072, 1.0), (5, 33, 0.5)] {
        for add in [false, true] {
            visitor.visit(&SwiGlu { rows, inner, clamp, add });
        }
    }
}

impl Case for SwiGlu {
    fn name(&self) -> String {
        let op = if self.add { "add" } else { "swiglu" };
        format!("{op} {}x{} at {}", self.rows, self.inner, self.clamp)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { nmse: 1e-11, reason: "another rounding of exp" }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        config.expert_inner = self.inner;
        prepare(be, &config, RowFormat::F32, self.rows)?;
        let cols = self.inner;
        let wide =
            |seed| values(seed, self.rows * cols).iter().map(|v| 9.0 * v).collect::<Vec<_>>();
        let (gate, up) = (wide(1), wide(2));
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let part = |x: &[f32]| x[range.start * cols..range.end * cols].to_vec();
            let mut gate = filled(be, "gate", cols, &part(&gate))?;
            let up = filled(be, "up", cols, &part(&up))?;
            let step = step(range.clone(), 0, &[]);
            be.begin(&step)?;
            if self.add {
                be.add(&mut gate, &up, &step)?;
            } else {
                be.swiglu(&mut gate, &up, self.clamp, &step)?;
            }
            collect(be, &gate, range.len(), &mut result)?;
        }
        Ok(result)
    }
}
