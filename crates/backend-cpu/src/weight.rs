//! Weights as they lie in the file.

use std::borrow::Cow;

use backend::{Error, Result};
use model::HostTensor;
use quant::dot::Weights;

use crate::device::NAME;

/// Float tensors up to this many values (norms, biases, sinks, position biases) are decoded once, so
/// that no step decodes or allocates.
const SMALL: usize = 1 << 18;

/// A weight: the mapped bytes, and small ones decoded.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) tensor: HostTensor,
    values: Option<Vec<f32>>,
}

impl Weight {
    /// Checks that this backend can compute with the tensor.
    pub(crate) fn new(tensor: &HostTensor) -> Result<Self> {
        let t = tensor;
        let len = t.rows * t.cols * t.experts.max(1);
        if t.ty.is_integer() {
            // The table of hash routing; it is read entry by entry.
            return Ok(Self { tensor: t.clone(), values: None });
        }
        Weights::new(t.ty, t.data.bytes(), t.rows * t.experts.max(1), t.cols).map_err(
            |source| Error::Unsupported {
                device: NAME,
                what: t.name.clone(),
                expected: "a float or block format in whole rows".to_owned(),
                found: source.to_string(),
            },
        )?;
        let mut weight = Self { tensor: t.clone(), values: None };
        if t.ty.is_float() && len <= SMALL {
            weight.values = Some(weight.decode(t.data.bytes(), len)?);
        }
        Ok(weight)
    }

    /// The stored rows of one expert's matrix (expert 0 where there is one matrix).
    pub(crate) fn matrix(&self, expert: usize) -> Weights<'_> {
        let t = &self.tensor;
        let bytes = t.data.bytes().len() / t.experts.max(1);
        let bytes = &t.data.bytes()[expert * bytes..][..bytes];
        Weights::new(t.ty, bytes, t.rows, t.cols)
            .unwrap_or_else(|e| unreachable!("{}: `load` has checked the shape: {e}", t.name))
    }

    /// All values: decoded at the start for small tensors, now for others.
    pub(crate) fn values(&self) -> Result<Cow<'_, [f32]>> {
        match &self.values {
            Some(values) => Ok(Cow::Borrowed(values)),
            None => {
                let t = &self.tensor;
                self.decode(t.data.bytes(), t.rows * t.cols * t.experts.max(1)).map(Cow::Owned)
            }
        }
    }

    /// Decodes one row.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let bytes = self.matrix(0).row(row);
        quant::decode(self.tensor.ty, bytes, out).map_err(|source| self.error(source))
    }

    fn decode(&self, bytes: &[u8], len: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0; len];
        quant::decode(self.tensor.ty, bytes, &mut values).map_err(|source| self.error(source))?;
        Ok(values)
    }

    fn error(&self, source: quant::Error) -> Error {
        Error::Decode { name: self.tensor.name.clone(), source }
    }
}
