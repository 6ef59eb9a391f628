//! Rows in: token embeddings into the streams.

use quant::TensorType::{self, BF16, F16, F32, Q8_0};

use super::inputs::{chunks, collect, config, output, prepare, step, weight};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;

struct Embed {
    ty: TensorType,
    hidden: usize,
    streams: usize,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    for ty in [F32, F16, BF16, Q8_0] {
        visitor.visit(&Embed { ty, hidden: 4096, streams: 4 });
        visitor.visit(&Embed { ty, hidden: 96, streams: 1 });
    }
}

impl Case for Embed {
    fn name(&self) -> String {
        format!("embed {} {}x{}", self.ty.name(), self.streams, self.hidden)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn rows(&self) -> usize {
        5
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        config.hidden = self.hidden;
        prepare(be, &config, RowFormat::F32, 5)?;
        let table = be.load(&weight(1, self.ty, 1, 64, self.hidden))?;
        let mut result = Vec::new();
        for range in chunks(5, chunk) {
            let mut out = output(be, "streams", range.len(), self.streams * self.hidden)?;
            let step = step(range.clone(), 0, &[]);
            be.begin(&step)?;
            be.embed(&mut out, &table, &step)?;
            collect(be, &out, range.len(), &mut result)?;
        }
        Ok(result)
    }
}
