//! Weights as they lie in the file.

use std::borrow::Cow;

use backend::{Error, Result};
use model::HostTensor;
use quant::dot::Weights;

use crate::device::NAME;

/// A weight: the mapped bytes, and the values of those that are used value by value.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) tensor: HostTensor,
    values: Option<Vec<f32>>,
}

impl Weight {
    /// Checks that this backend can compute with the tensor.
    pub(crate) fn new(tensor: &HostTensor) -> Result<Self> {
        let t = tensor;
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
        Ok(Self { tensor: t.clone(), values: None })
    }

    /// A weight that is used value by value (a norm, a bias): decoded once, so that no step decodes
    /// or allocates.
    pub(crate) fn vector(tensor: &HostTensor) -> Result<Self> {
        let mut weight = Self::new(tensor)?;
        let len = tensor.rows * tensor.cols * tensor.experts.max(1);
        weight.values = Some(weight.decode(tensor.data.bytes(), len)?);
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

    /// All values: decoded at the start for vectors, now for others.
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
