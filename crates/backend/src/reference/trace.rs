//! Named activations of one row, for comparison with values from outside.

use crate::step::Step;

/// One recorded output.
#[derive(Clone, Debug)]
pub struct Record {
    /// Layer that was being computed.
    pub layer: usize,
    /// The buffer's label.
    pub label: &'static str,
    /// Its values for the traced row.
    pub values: Vec<f32>,
}

/// Records every operation's output at one position.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The position to record.
    pub pos: u32,
    /// Set by the layer function.
    pub layer: usize,
    /// Outputs in the order of computation.
    pub records: Vec<Record>,
}

impl Trace {
    /// The row of `step` that is traced.
    pub(crate) fn row(&self, step: &Step) -> Option<usize> {
        step.rows.iter().position(|r| r.pos == self.pos)
    }

    pub(crate) fn note(&mut self, label: &'static str, values: &[f32], cols: usize, step: &Step) {
        if let Some(row) = self.row(step).filter(|row| (row + 1) * cols <= values.len()) {
            self.push(label, &values[row * cols..][..cols]);
        }
    }

    pub(crate) fn push(&mut self, label: &'static str, values: &[f32]) {
        self.records.push(Record { layer: self.layer, label, values: values.to_vec() });
    }
}
