//! The chosen experts, with the types of published files; and the whole mixture.

use quant::TensorType::{self, F32, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0};

use super::inputs::{
    bits, chunks, collect, config, filled, offsets, output, prepare, step, values, weight,
};
use super::matmul::product_tolerance;
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;
use crate::weights::{ExpertWeights, MoeWeights, RouterWeights};

struct Experts {
    rows: usize,
    hidden: usize,
    inner: usize,
    experts: usize,
    used: usize,
    /// Type of gate and up, and of down.
    types: (TensorType, TensorType),
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    let types = [(F32, F32), (Q8_0, Q8_0), (Q4K, Q4K), (Iq2Xxs, Q2K), (Mxfp4, Mxfp4)];
    for types in types {
        visitor.visit(&Experts { rows: 7, hidden: 256, inner: 256, experts: 5, used: 3, types });
        visitor.visit(&Experts { rows: 1, hidden: 512, inner: 256, experts: 4, used: 4, types });
    }
    for types in [(Q4K, Q4K), (Iq2Xxs, Q2K), (Mxfp4, Mxfp4)] {
        visitor.visit(&Experts { rows: 11, hidden: 256, inner: 256, experts: 3, used: 2, types });
    }
    // Enough rows for kernels that take many.
    for types in [(Q4K, Q4K), (Iq2Xxs, Q2K), (Mxfp4, Mxfp4), (Q8_0, Q8_0)] {
        visitor.visit(&Experts { rows: 190, hidden: 256, inner: 256, experts: 2, used: 1, types });
    }
    // Flash's inner widths, one expert of each kind.
    let types = (Iq2Xxs, Q2K);
    visitor.visit(&Experts { rows: 2, hidden: 4096, inner: 256, experts: 2, used: 1, types });
    let types = (Q8_0, Mxfp4);
    visitor.visit(&Experts { rows: 9, hidden: 96, inner: 160, experts: 384, used: 6, types });
}

impl Experts {
    fn weights<B: Ops>(&self, be: &mut B, seed: u64, n: usize) -> Result<ExpertWeights<B>> {
        let (up, down) = self.types;
        Ok(ExpertWeights {
            gate: be.load(&weight(seed, up, n, self.inner, self.hidden))?,
            up: be.load(&weight(seed + 1, up, n, self.inner, self.hidden))?,
            down: be.load(&weight(seed + 2, down, n, self.hidden, self.inner))?,
            clamp: 1.5,
        })
    }
}

impl Case for Experts {
    fn name(&self) -> String {
        let Self { rows, hidden, inner, experts, used, types } = self;
        let types = format!("{}/{}", types.0.name(), types.1.name());
        format!("moe {types} {rows}x{hidden}x{inner}, {used} of {experts}")
    }

    fn tolerance(&self) -> Tolerance {
        let loose = product_tolerance(self.types.0).nmse.max(product_tolerance(self.types.1).nmse);
        // Two products in a row, gate times up between them.
        Tolerance { nmse: 4.0 * loose, reason: "two products with rounded activations" }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        (config.hidden, config.expert_inner) = (self.hidden, self.inner);
        (config.n_experts, config.n_experts_used) = (self.experts, self.used);
        prepare(be, &config, RowFormat::F32, self.rows)?;
        let moe = MoeWeights {
            gate: be.load(&weight(10, F32, 1, self.experts, self.hidden))?,
            router: RouterWeights::TopK { bias: be.load_vector(&offsets(11, self.experts))? },
            routed: self.weights(be, 20, self.experts)?,
            shared: self.weights(be, 30, 1)?,
        };
        let x = values(bits(1, 1) % 100, self.rows * self.hidden);
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let part = &x[range.start * self.hidden..range.end * self.hidden];
            let input = filled(be, "x", self.hidden, part)?;
            let mut out = output(be, "y", range.len(), self.hidden)?;
            let step = step(range.clone(), 0, &[]);
            be.begin(&step)?;
            be.moe(&mut out, &input, &moe, &step)?;
            collect(be, &out, range.len(), &mut result)?;
        }
        Ok(result)
    }
}
