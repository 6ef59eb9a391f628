//! Products, plain and grouped, with weights of every type that kernels exist for.

use quant::TensorType::{self, BF16, F16, F32, Iq2Xxs, Mxfp4, Q2K, Q4K, Q6K, Q8_0};

use super::inputs::{chunks, collect, config, filled, output, prepare, step, values, weight};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;
use crate::step::Count;

struct MatMul {
    ty: TensorType,
    rows: usize,
    outputs: usize,
    inputs: usize,
    /// 0 for the plain product.
    groups: usize,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    for ty in [F32, F16, BF16, Q8_0, Q2K, Q4K, Q6K, Iq2Xxs, Mxfp4] {
        // Inner widths of Flash and Pro; few outputs, since outputs do not interact.
        for (rows, outputs, inputs) in [(5, 33, 512), (1, 24, 4096), (3, 9, 7168), (19, 70, 1536)] {
            visitor.visit(&MatMul { ty, rows, outputs, inputs, groups: 0 });
        }
    }
    // One row more than kernels for few take at once.
    for ty in [F16, Q8_0] {
        for (rows, groups) in [(17, 0), (5, 2), (9, 2)] {
            visitor.visit(&MatMul { ty, rows, outputs: 64, inputs: 256, groups });
        }
    }
    // More rows than any kernel for few takes, and more than one tile of those for many.
    for ty in [F32, F16, BF16, Q8_0, Q2K, Q4K, Q6K, Iq2Xxs, Mxfp4] {
        visitor.visit(&MatMul { ty, rows: 70, outputs: 20, inputs: 256, groups: 0 });
    }
    visitor.visit(&MatMul { ty: Q8_0, rows: 130, outputs: 1030, inputs: 256, groups: 0 });
    visitor.visit(&MatMul { ty: Q8_0, rows: 33, outputs: 12, inputs: 256, groups: 2 });
    for ty in [F32, F16, Q8_0, Mxfp4] {
        visitor.visit(&MatMul { ty, rows: 7, outputs: 5, inputs: 96, groups: 0 });
    }
    for (groups, inputs) in [(2, 256), (8, 4096), (16, 4096)] {
        for ty in [F32, Q8_0] {
            visitor.visit(&MatMul { ty, rows: 3, outputs: 6 * groups, inputs, groups });
        }
    }
}

/// Weights that are not floats meet activations rounded to eight bits.
pub(super) fn product_tolerance(ty: TensorType) -> Tolerance {
    if ty.is_float() {
        Tolerance::FLOAT
    } else {
        Tolerance {
            nmse: 2e-4,
            reason: "activations are rounded to 1/127 of their block's largest",
        }
    }
}

impl Case for MatMul {
    fn name(&self) -> String {
        let Self { ty, rows, outputs, inputs, groups } = self;
        let op = if *groups > 0 { format!("grouped_matmul/{groups}") } else { "matmul".to_owned() };
        format!("{op} {} {rows}x{inputs} -> {outputs}", ty.name())
    }

    fn tolerance(&self) -> Tolerance {
        product_tolerance(self.ty)
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        config.hidden = self.inputs.max(self.outputs);
        prepare(be, &config, RowFormat::F32, self.rows)?;
        let cols = self.inputs * self.groups.max(1);
        let x = values(1, self.rows * cols);
        let w = be.load(&weight(2, self.ty, 1, self.outputs, self.inputs))?;
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let input = filled(be, "x", cols, &x[range.start * cols..range.end * cols])?;
            let mut out = output(be, "out", range.len(), self.outputs)?;
            let step = step(range.clone(), 0, &[]);
            be.begin(&step)?;
            if self.groups > 0 {
                be.grouped_matmul(&mut out, &input, &w, self.groups, &step)?;
            } else {
                be.matmul(&mut out, &input, &w, &step, Count::Rows)?;
            }
            collect(be, &out, range.len(), &mut result)?;
        }
        Ok(result)
    }
}
