//! Rows of activations rounded to int8 blocks.

use std::marker::PhantomData;

/// Rows of int8 codes with an f32 scale per block and sums over every 16 codes.
///
/// Codes are `round(x * 127 / amax)`, ties to even, with `amax` the block's largest magnitude, and
/// the scale is `amax / 127`; a block whose magnitudes are all below 2^-100 is zero.
pub struct Q8Rows {
    block: usize,
    cols: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i16>,
}

impl Q8Rows {
    /// Room for `values` codes in blocks of `block` (32 or 256).
    ///
    /// # Panics
    /// When `block` is neither.
    #[must_use]
    pub fn with_capacity(block: usize, values: usize) -> Self {
        assert!(block == 32 || block == 256, "activation blocks of {block}");
        Self {
            block,
            cols: 0,
            codes: Vec::with_capacity(values),
            scales: Vec::with_capacity(values / block),
            sums: Vec::with_capacity(values / 16),
        }
    }

    /// Makes this `rows` rows of `cols` codes, whose content is unspecified. Allocates nothing while
    /// the capacity lasts.
    ///
    /// # Panics
    /// When `cols` is no multiple of the block.
    pub fn reset(&mut self, rows: usize, cols: usize) {
        assert!(cols.is_multiple_of(self.block), "{cols} columns in blocks of {}", self.block);
        self.cols = cols;
        self.codes.resize(rows * cols, 0);
        self.scales.resize(rows * cols / self.block, 0.0);
        self.sums.resize(rows * cols / 16, 0);
    }

    /// Values that share a scale.
    #[must_use]
    pub fn block(&self) -> usize {
        self.block
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.codes.len().checked_div(self.cols).unwrap_or(0)
    }

    /// The codes of a row.
    #[must_use]
    pub fn codes(&self, row: usize) -> &[i8] {
        &self.codes[row * self.cols..][..self.cols]
    }

    /// The scales of a row, one per block.
    #[must_use]
    pub fn scales(&self, row: usize) -> &[f32] {
        let n = self.cols / self.block;
        &self.scales[row * n..][..n]
    }

    /// The sums of a row, one per 16 codes.
    #[must_use]
    pub fn sums(&self, row: usize) -> &[i16] {
        let n = self.cols / 16;
        &self.sums[row * n..][..n]
    }

    /// One row, to be filled by [`Kernels::quantize`](super::Kernels::quantize).
    pub fn row_mut(&mut self, row: usize) -> Q8RowMut<'_> {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        // SAFETY: the row exists and `self` is borrowed for as long as the result.
        unsafe { self.shared().into_row(row) }
    }

    /// A view from which several threads can fill different rows.
    pub fn shared(&mut self) -> Q8Shared<'_> {
        Q8Shared {
            block: self.block,
            cols: self.cols,
            rows: self.rows(),
            codes: self.codes.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            owner: PhantomData,
        }
    }
}

/// One row of [`Q8Rows`] that can be written.
pub struct Q8RowMut<'a> {
    /// Values that share a scale.
    pub(crate) block: usize,
    pub(crate) codes: &'a mut [i8],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sums: &'a mut [i16],
}

/// [`Q8Rows`] whose rows are handed out one by one to several threads.
pub struct Q8Shared<'a> {
    block: usize,
    cols: usize,
    rows: usize,
    codes: *mut i8,
    scales: *mut f32,
    sums: *mut i16,
    owner: PhantomData<&'a mut Q8Rows>,
}

// SAFETY: the pointers lead to plain numbers, and `row` obliges its callers to keep rows apart.
unsafe impl Sync for Q8Shared<'_> {}

impl<'a> Q8Shared<'a> {
    /// A row to write.
    ///
    /// # Safety
    /// No two live results may be of the same row.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub unsafe fn row(&self, row: usize) -> Q8RowMut<'_> {
        // SAFETY: as promised by the caller.
        unsafe { Self { ..*self }.into_row(row) }
    }

    /// As [`row`](Self::row), for as long as the rows are borrowed.
    unsafe fn into_row(self, row: usize) -> Q8RowMut<'a> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let (blocks, sums) = (self.cols / self.block, self.cols / 16);
        // SAFETY: `reset` sized the three vectors for `rows` rows, which `owner` keeps borrowed; the
        // caller keeps the ranges of different results apart.
        unsafe {
            Q8RowMut {
                block: self.block,
                codes: std::slice::from_raw_parts_mut(self.codes.add(row * self.cols), self.cols),
                scales: std::slice::from_raw_parts_mut(self.scales.add(row * blocks), blocks),
                sums: std::slice::from_raw_parts_mut(self.sums.add(row * sums), sums),
            }
        }
    }
}
