//! Rows of activations rounded to blocks of integers.

use std::marker::PhantomData;

use super::ActFormat;

/// Rows of integer codes with an f32 scale per block and, for int8, sums over every 16 codes.
///
/// Codes are `round(x * limit / amax)`, ties to even, with `amax` the block's largest magnitude and
/// `limit` 127 for int8 and 4095 for int16; the scale is `amax / limit`. A block whose magnitudes are
/// all below 2^-100 is zero.
pub struct RoundedRows {
    format: ActFormat,
    cols: usize,
    rows: usize,
    /// int8 codes in the order of the values.
    codes: Vec<i8>,
    /// int16 codes: of every 32, the even ones, then the odd ones .
    wide: Vec<i16>,
    scales: Vec<f32>,
    sums: Vec<i16>,
}

/// The largest int16 code. Sums of 32 products with int8 weights stay below 2^24, so that they are
/// exact as f32, and adding in int32 is exact in any case.
pub(crate) const WIDE_LIMIT: f32 = 4095.0;

/// Where value `i` of 32 lies among int16 codes: shifts split the bytes of a weight vector into even
/// and odd ones, and this is their order.
pub(crate) const fn wide_place(i: usize) -> usize {
    i % 2 * 16 + i / 2
}

impl RoundedRows {
    /// Room for `values` codes.
    ///
    /// # Panics
    /// When `format` is [`ActFormat::F32`], which has no codes.
    #[must_use]
    pub fn with_capacity(format: ActFormat, values: usize) -> Self {
        let bytes = Self::sizes(format, values);
        Self {
            format,
            cols: 0,
            rows: 0,
            codes: Vec::with_capacity(bytes.codes),
            wide: Vec::with_capacity(bytes.wide),
            scales: Vec::with_capacity(bytes.scales),
            sums: Vec::with_capacity(bytes.sums),
        }
    }

    /// Bytes that [`RoundedRows::with_capacity`] allocates.
    ///
    /// # Panics
    /// When `format` is [`ActFormat::F32`].
    #[must_use]
    pub fn bytes(format: ActFormat, values: usize) -> usize {
        let n = Self::sizes(format, values);
        n.codes + 2 * n.wide + 4 * n.scales + 2 * n.sums
    }

    fn sizes(format: ActFormat, values: usize) -> Sizes {
        let block =
            format.block().unwrap_or_else(|| panic!("{format:?} activations have no codes"));
        let (wide, scales) = (format == ActFormat::Q16x32, values / block);
        if wide {
            Sizes { codes: 0, wide: values, scales, sums: 0 }
        } else {
            Sizes { codes: values, wide: 0, scales, sums: values / 16 }
        }
    }

    /// Makes this `rows` rows of `cols` codes, whose content is unspecified. Allocates nothing while
    /// the capacity lasts.
    ///
    /// # Panics
    /// When `cols` is no multiple of the block.
    pub fn reset(&mut self, rows: usize, cols: usize) {
        assert!(cols.is_multiple_of(self.block()), "{cols} columns in blocks of {}", self.block());
        let n = Self::sizes(self.format, rows * cols);
        (self.rows, self.cols) = (rows, cols);
        // They only grow: to write zeros anew would take a thread as long as rounding takes all.
        grow(&mut self.codes, n.codes);
        grow(&mut self.wide, n.wide);
        grow(&mut self.scales, n.scales);
        grow(&mut self.sums, n.sums);
    }

    /// What the codes look like.
    #[must_use]
    pub fn format(&self) -> ActFormat {
        self.format
    }

    /// Values that share a scale.
    #[must_use]
    pub fn block(&self) -> usize {
        self.format.block().unwrap_or(1)
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The int8 codes of a row.
    #[must_use]
    pub(crate) fn codes(&self, row: usize) -> &[i8] {
        &self.codes[row * self.cols..][..self.cols]
    }

    /// The int16 codes of a row.
    #[must_use]
    pub(crate) fn wide(&self, row: usize) -> &[i16] {
        &self.wide[row * self.cols..][..self.cols]
    }

    /// The scales of a row, one per block.
    #[must_use]
    pub(crate) fn scales(&self, row: usize) -> &[f32] {
        let n = self.cols / self.block();
        &self.scales[row * n..][..n]
    }

    /// The sums of a row, one per 16 int8 codes.
    #[must_use]
    pub(crate) fn sums(&self, row: usize) -> &[i16] {
        let n = self.cols / 16;
        &self.sums[row * n..][..n]
    }

    /// One row, to be filled by [`Kernels::quantize`](super::Kernels::quantize).
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_mut(&mut self, row: usize) -> RoundedRowMut<'_> {
        // SAFETY: `self` is borrowed for as long as the result.
        unsafe { self.shared().into_row(row) }
    }

    /// A view from which several threads can fill different rows.
    pub fn shared(&mut self) -> RoundedShared<'_> {
        RoundedShared {
            format: self.format,
            cols: self.cols,
            rows: self.rows,
            codes: self.codes.as_mut_ptr(),
            wide: self.wide.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            owner: PhantomData,
        }
    }
}

/// Elements of each vector.
struct Sizes {
    codes: usize,
    wide: usize,
    scales: usize,
    sums: usize,
}

fn grow<T: Default + Copy>(values: &mut Vec<T>, len: usize) {
    values.resize(len.max(values.len()), T::default());
}

/// One row of [`RoundedRows`] that can be written. Of `codes` and `wide`, one is empty.
pub struct RoundedRowMut<'a> {
    pub(crate) format: ActFormat,
    pub(crate) codes: &'a mut [i8],
    pub(crate) wide: &'a mut [i16],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sums: &'a mut [i16],
}

impl RoundedRowMut<'_> {
    /// Values in the row.
    pub(crate) fn cols(&self) -> usize {
        self.codes.len() + self.wide.len()
    }
}

/// [`RoundedRows`] whose rows are handed out one by one to several threads.
pub struct RoundedShared<'a> {
    format: ActFormat,
    cols: usize,
    rows: usize,
    codes: *mut i8,
    wide: *mut i16,
    scales: *mut f32,
    sums: *mut i16,
    owner: PhantomData<&'a mut RoundedRows>,
}

// SAFETY: the pointers lead to plain numbers, and `row` obliges its callers to keep rows apart.
unsafe impl Sync for RoundedShared<'_> {}

impl<'a> RoundedShared<'a> {
    /// A row to write.
    ///
    /// # Safety
    /// No two live results may be of the same row.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub unsafe fn row(&self, row: usize) -> RoundedRowMut<'_> {
        // SAFETY: as promised by the caller.
        unsafe { Self { ..*self }.into_row(row) }
    }

    /// As [`row`](Self::row), for as long as the rows are borrowed.
    unsafe fn into_row(self, row: usize) -> RoundedRowMut<'a> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let n = RoundedRows::sizes(self.format, self.cols);
        // SAFETY: `reset` sized the vectors for `rows` such rows, which `owner` keeps borrowed; the
        // caller keeps the ranges of different results apart.
        unsafe {
            RoundedRowMut {
                format: self.format,
                codes: std::slice::from_raw_parts_mut(self.codes.add(row * n.codes), n.codes),
                wide: std::slice::from_raw_parts_mut(self.wide.add(row * n.wide), n.wide),
                scales: std::slice::from_raw_parts_mut(self.scales.add(row * n.scales), n.scales),
                sums: std::slice::from_raw_parts_mut(self.sums.add(row * n.sums), n.sums),
            }
        }
    }
}
