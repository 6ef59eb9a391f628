//! RMS norms: weighted over a row, plain over heads and over all streams.

use super::inputs::{chunks, collect, config, filled, output, prepare, step, values, vector};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;
use crate::step::Count;

struct Norm {
    rows: usize,
    cols: usize,
    /// Channels of a plain norm's group; `None` for the weighted norm.
    group: Option<usize>,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    for (rows, cols) in [(3, 4096), (2, 7168), (5, 96), (1, 1536)] {
        visitor.visit(&Norm { rows, cols, group: None });
    }
    for (rows, cols, group) in [(2, 64 * 512, 512), (3, 16_384, 16_384), (4, 5 * 192, 192)] {
        visitor.visit(&Norm { rows, cols, group: Some(group) });
    }
}

impl Case for Norm {
    fn name(&self) -> String {
        match self.group {
            Some(group) => format!("rms_norm_plain/{group} {}x{}", self.rows, self.cols),
            None => format!("rms_norm {}x{}", self.rows, self.cols),
        }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::FLOAT
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        prepare(be, &config(), RowFormat::F32, self.rows)?;
        let (cols, x) = (self.cols, values(1, self.rows * self.cols));
        let w = be.load_vector(&vector(2, cols))?;
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let input = filled(be, "x", cols, &x[range.start * cols..range.end * cols])?;
            let mut out = output(be, "out", range.len(), cols)?;
            let step = step(range.clone(), 0, &[]);
            be.begin(&step)?;
            match self.group {
                Some(group) => be.rms_norm_plain(&mut out, &input, group, &step, Count::Rows)?,
                None => be.rms_norm(&mut out, &input, &w, &step, Count::Logits)?,
            }
            collect(be, &out, range.len(), &mut result)?;
        }
        Ok(result)
    }
}
