//! The three operands of a product: weights in a file, activations, output.

use std::marker::PhantomData;
use std::ops::Range;

use super::RoundedRows;
use crate::{Error, TensorType};

/// Rows of stored weights, one after another.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    ty: TensorType,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
    row_bytes: usize,
}

impl<'a> Weights<'a> {
    /// `bytes` as `rows` rows of `cols` weights.
    ///
    /// # Errors
    /// [`Error::NoDecoder`] for integers and formats that are never stored, [`Error::Length`] when the
    /// bytes are not exactly that many rows of whole blocks.
    pub fn new(ty: TensorType, bytes: &'a [u8], rows: usize, cols: usize) -> Result<Self, Error> {
        crate::decode(ty, &[], &mut [])?;
        let expected = ty.row_bytes(cols).and_then(|n| n.checked_mul(rows));
        if expected != Some(bytes.len()) {
            let weights = rows.saturating_mul(cols);
            return Err(Error::Length { ty, weights, expected, bytes: bytes.len() });
        }
        Ok(Self { ty, bytes, rows, cols, row_bytes: bytes.len().checked_div(rows).unwrap_or(0) })
    }

    /// The rows `start..end`.
    ///
    /// # Panics
    /// When the range is not inside the matrix.
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Self {
        let bytes = &self.bytes[start * self.row_bytes..end * self.row_bytes];
        Self { bytes, rows: end - start, ..*self }
    }

    /// Element type.
    #[must_use]
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Number of rows (outputs).
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights in a row (inputs).
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}

/// Rows of activations; `index`, where given, picks and orders them.
#[derive(Clone, Copy)]
pub enum Acts<'a> {
    /// Unrounded rows of `cols` values that start `stride` values apart.
    F32 {
        /// The values.
        values: &'a [f32],
        /// Values used of each row.
        cols: usize,
        /// Distance between rows.
        stride: usize,
        /// Rows to use, in this order; `None` for all.
        index: Option<&'a [u32]>,
    },
    /// Rounded rows.
    Rounded {
        /// The rows.
        rows: &'a RoundedRows,
        /// Rows to use, in this order; `None` for all.
        index: Option<&'a [u32]>,
    },
}

impl<'a> Acts<'a> {
    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        match self {
            Self::F32 { cols, .. } => *cols,
            Self::Rounded { rows, .. } => rows.cols(),
        }
    }

    /// Number of rows used.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        match *self {
            Self::F32 { index: Some(index), .. } | Self::Rounded { index: Some(index), .. } => {
                index.len()
            }
            Self::F32 { values, cols, stride, .. } => {
                if values.len() < cols {
                    0
                } else {
                    1 + (values.len() - cols) / stride.max(1)
                }
            }
            Self::Rounded { rows, .. } => rows.rows(),
        }
    }

    /// The `n`-th row used, as f32 values; empty for rounded rows.
    #[must_use]
    pub(crate) fn f32_row(&self, n: usize) -> &'a [f32] {
        match *self {
            Self::F32 { values, cols, stride, index } => {
                &values[picked(index, n) * stride..][..cols]
            }
            Self::Rounded { .. } => &[],
        }
    }
}

/// Where the `n`-th used row lies.
pub(crate) fn picked(index: Option<&[u32]>, n: usize) -> usize {
    index.map_or(n, |index| index[n] as usize)
}

/// `rows` output rows of `cols` values, `stride` apart; may be a column range of a wider matrix that
/// other threads fill beside this one.
pub struct Out<'a> {
    ptr: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: an `Out` is an exclusive view of floats; whoever splits one keeps the parts apart.
unsafe impl Send for Out<'_> {}
// SAFETY: through `&Out` floats are only reached by the unsafe `tile`, with the same duty.
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    /// All of `values`, as rows of `cols` that lie `stride` apart.
    ///
    /// # Panics
    /// When rows overlap or `values` does not end with a whole row.
    pub fn new(values: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(stride >= cols, "output rows of {cols} overlap at a stride of {stride}");
        assert!(rows == 0 || values.len() >= (rows - 1) * stride + cols, "output is too short");
        Self { ptr: values.as_mut_ptr(), rows, cols, stride, owner: PhantomData }
    }

    /// The given columns of the given rows.
    ///
    /// # Safety
    /// Views that overlap must not be used at the same time.
    ///
    /// # Panics
    /// When a range is not inside the view.
    #[must_use]
    pub unsafe fn tile(&self, rows: Range<usize>, cols: Range<usize>) -> Out<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "cols {cols:?} of {}", self.cols);
        // An empty range may start past the end: the offset is never followed then.
        let ptr = self.ptr.wrapping_add(rows.start * self.stride + cols.start);
        Out { ptr, rows: rows.len(), cols: cols.len(), stride: self.stride, owner: PhantomData }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// One row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        self.part(row, 0, self.cols)
    }

    /// Values `col..col + len` of a row.
    ///
    /// # Panics
    /// When they are outside the view.
    pub(crate) fn part(&mut self, row: usize, col: usize, len: usize) -> &mut [f32] {
        assert!(row < self.rows && col + len <= self.cols, "output element outside its view");
        // SAFETY: in bounds by the assertion and by `new`; `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(row * self.stride + col), len) }
    }
}
