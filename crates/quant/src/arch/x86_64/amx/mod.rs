//! AMX: products of bytes in tiles of 16 activation rows and 16 weight rows.
//!
//! A panel's layout (four weights of 16 rows in turn) is that of a tile's right operand. Sums leave the
//! tiles once for every scale, in int32, so that they are as exact as everywhere; the float accumulation
//! is that of AVX-512. Fewer rows than [`MIN_ROWS`] are left to AVX-512.

mod blocks;
mod q8_0;
mod unit;

use std::arch::x86_64::*;

use super::formats::{Iq2Xxs, Mxfp4, Q2KFolded, Q4K, Q6K};
use super::gemm::{Panel, SIDE};
use crate::TensorType;
use crate::dot::{Acts, Out, RoundedRows, Scratch, Weights, picked};
pub(in crate::arch::x86_64) use unit::usable;
use unit::{Amx, ROWS, Unit};

/// From this many activation rows on tiles are worth their loading and storing.
const MIN_ROWS: usize = 6;

/// # Safety
/// [`usable`] must have said so; shapes and formats must agree.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn matmul(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let (rows, index) = match *acts {
        Acts::Rounded { rows, index } if out.rows() >= MIN_ROWS => (rows, index),
        // SAFETY: this function has the features that that one needs.
        _ => return unsafe { super::avx512::matmul(w, acts, out, scratch) },
    };
    // SAFETY: as promised by the caller.
    unsafe { rounded::<Amx>(w, rows, index, out, scratch) };
}

/// As [`matmul`] with any number of rows, the tile unit being emulated.
///
/// # Safety
/// Shapes and formats must agree.
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn emulated(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        match *acts {
            Acts::Rounded { rows, index } => {
                rounded::<unit::Emulated>(w, rows, index, out, scratch);
            }
            Acts::F32 { .. } => super::avx512::matmul(w, acts, out, scratch),
        }
    }
}

/// Products of block formats on the unit `U`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn rounded<U: Unit>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    // SAFETY: this function has the features that those need, the caller the unit, and the format is each
    // one's own.
    unsafe {
        match w.ty() {
            TensorType::Q8_0 => q8_0::rows::<U>(w, acts, index, out, scratch),
            TensorType::Mxfp4 => blocks::rows::<U, Mxfp4>(w, acts, index, out, scratch),
            TensorType::Q2K => blocks::rows::<U, Q2KFolded>(w, acts, index, out, scratch),
            TensorType::Q4K => blocks::rows::<U, Q4K>(w, acts, index, out, scratch),
            TensorType::Q6K => blocks::rows::<U, Q6K>(w, acts, index, out, scratch),
            TensorType::Iq2Xxs => blocks::rows::<U, Iq2Xxs>(w, acts, index, out, scratch),
            // `Kernels::matmul` has compared the formats.
            ty => unreachable!("{ty} has no integer products"),
        }
        U::release();
    }
}

/// Activation rows of one tile.
struct Tile {
    /// Number of the first one among those in use.
    first: usize,
    len: usize,
    /// Where each lies.
    rows: [usize; ROWS],
}

impl Tile {
    /// All rows in use, 16 at a time.
    fn each(n_rows: usize, index: Option<&[u32]>, mut visit: impl FnMut(&Self)) {
        for first in (0..n_rows).step_by(ROWS) {
            let len = ROWS.min(n_rows - first);
            let mut rows = [0; ROWS];
            for (i, row) in rows[..len].iter_mut().enumerate() {
                *row = picked(index, first + i);
            }
            visit(&Self { first, len, rows });
        }
    }
}

/// 16 numbers for each of up to 16 activation rows.
#[repr(align(64))]
struct Square<T>([[T; SIDE]; ROWS]);

/// Float sums of a tile.
struct Sums(Square<f32>);

impl Sums {
    /// What the panels before have left in the output; zeros at the first.
    fn load(panel: &Panel, side: usize, out: &mut Out<'_>, tile: &Tile) -> Self {
        let mut sums = Square([[0.0; SIDE]; ROWS]);
        if panel.first_col > 0 {
            let (col, len) = (panel.first_row + side * SIDE, SIDE.min(panel.rows - side * SIDE));
            for (n, row) in sums.0[..tile.len].iter_mut().enumerate() {
                row[..len].copy_from_slice(out.part(tile.first + n, col, len));
            }
        }
        Self(sums)
    }

    fn store(&self, panel: &Panel, side: usize, out: &mut Out<'_>, tile: &Tile) {
        let (col, len) = (panel.first_row + side * SIDE, SIDE.min(panel.rows - side * SIDE));
        for (n, row) in self.0.0[..tile.len].iter().enumerate() {
            out.part(tile.first + n, col, len).copy_from_slice(&row[..len]);
        }
    }

    /// `sum = fma(±total, d * scale, sum)` for row `n`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn add<const NEGATIVE: bool>(&mut self, n: usize, total: __m512i, d: __m512, scale: f32) {
        let row = self.0.0[n].as_mut_ptr();
        let (total, scale) = (_mm512_cvtepi32_ps(total), _mm512_mul_ps(d, _mm512_set1_ps(scale)));
        // SAFETY: a row has 16 floats.
        unsafe {
            let sum = _mm512_load_ps(row);
            let sum = if NEGATIVE {
                _mm512_fnmadd_ps(total, scale, sum)
            } else {
                _mm512_fmadd_ps(total, scale, sum)
            };
            _mm512_store_ps(row, sum);
        }
    }
}

/// What left the tiles.
struct Totals(Square<i32>);

impl Totals {
    fn new() -> Self {
        Self(Square([[0; SIDE]; ROWS]))
    }

    fn as_mut_ptr(&mut self) -> *mut i32 {
        self.0.0.as_mut_ptr().cast()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn row(&self, n: usize) -> __m512i {
        // SAFETY: a row has 16 dwords.
        unsafe { _mm512_load_si512(self.0.0[n].as_ptr().cast()) }
    }
}
