//! Activations rounded as a device's kernels round them, so that what is left between the device and the
//! reference is the order of additions.

use std::borrow::Cow;

use quant::TensorType;

/// How a device rounds the activations that meet a tensor, given its name and type; `None` where it does not.
pub type Rounds = fn(&str, TensorType) -> Option<Rounding>;

/// Codes of a block of columns: the nearest integers to `x · (codes / largest)`, ties to even, where
/// `largest` is the block's largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// Columns that share a scale.
    pub block: usize,
    /// The same when a step has one row.
    pub alone: usize,
    /// The code of the largest magnitude.
    pub codes: u16,
}

impl Rounding {
    fn round(self, x: &mut [f32], n_rows: usize) {
        let codes = f32::from(self.codes);
        for block in x.chunks_mut(if n_rows == 1 { self.alone } else { self.block }) {
            let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // Blocks of magnitudes whose reciprocal could overflow are zeros.
            let tiny = largest < 2f32.powi(-100);
            let (inverse, scale) =
                if tiny { (0.0, 0.0) } else { (codes / largest, largest / codes) };
            block.iter_mut().for_each(|v| *v = (*v * inverse).round_ties_even() * scale);
        }
    }
}

/// One of so many rows as a product meets it.
pub(super) fn met(x: &[f32], rounding: Option<Rounding>, n_rows: usize) -> Cow<'_, [f32]> {
    match rounding {
        None => Cow::Borrowed(x),
        Some(rounding) => {
            let mut x = x.to_vec();
            rounding.round(&mut x, n_rows);
            Cow::Owned(x)
        }
    }
}
