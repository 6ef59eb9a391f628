//! One or two activation rows: weights are read once, straight from the stored blocks.
//!
//! Sixteen pairs of row and block are worked on together, so that their exact block sums meet in the lanes
//! of one vector before the float accumulation.

use std::arch::x86_64::*;

use super::lanes::from_lane;
use crate::dot::{Out, RoundedRows, Weights, picked};

/// Rows side by side.
pub(super) const ROWS: usize = 8;
/// Blocks of each row that are worked on together.
pub(super) const BLOCKS: usize = 16 / ROWS;

/// Places of 16 stored blocks: [`ROWS`] rows of one block, then of the next.
pub(super) struct Places<'a> {
    rows: &'a [*const u8; ROWS],
    /// Distance of each block from the start of its row.
    skip: [usize; BLOCKS],
}

impl Places<'_> {
    /// Place `i`. Computed each time: a list of all 16 would be read from memory before it is written.
    #[inline]
    pub(super) fn at(&self, i: usize) -> *const u8 {
        self.rows[i % ROWS].wrapping_add(self.skip[i / ROWS])
    }
}

/// What 16 pairs of row and block come to, a lane each.
pub(super) struct Sums {
    pub(super) total: __m512i,
    pub(super) d: __m512,
    /// Minima and their scale, where the format has some.
    pub(super) mins: Option<(__m512i, __m512)>,
}

/// A format that is multiplied straight from its stored blocks.
pub(super) trait OneRow {
    /// Weights in a block.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Exact sums of 16 blocks.
    ///
    /// # Safety
    /// Every place must lead to a block of this format, and `acts` must have the activation blocks
    /// `at[..]` of row `row`, one for every `ROWS` places.
    unsafe fn sums(
        places: &Places<'_>,
        acts: &RoundedRows,
        row: usize,
        at: [usize; BLOCKS],
    ) -> Sums;
}

/// All weight rows times the activation rows in use. Never inlined, so that a profile tells formats apart.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn rows<F: OneRow>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
) {
    let n_blocks = w.cols() / F::LEN;
    for first in (0..w.rows()).step_by(ROWS) {
        // Past the end the last row stands in, and its results are dropped.
        let mut rows = [w.row(first).as_ptr(); ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = w.row((first + r).min(w.rows() - 1)).as_ptr();
        }
        for n in 0..out.rows() {
            let row = picked(index, n);
            let scales = acts.scales(row);
            let mut acc = _mm512_setzero_ps();
            for b in (0..n_blocks).step_by(BLOCKS) {
                prefetch_next(w, first, b * ROWS * F::BYTES, BLOCKS * F::BYTES);
                // So does the last block.
                let (mut at, mut skip) = ([b; BLOCKS], [0; BLOCKS]);
                for j in 0..BLOCKS {
                    at[j] = (b + j).min(n_blocks - 1);
                    skip[j] = at[j] * F::BYTES;
                }
                let places = Places { rows: &rows, skip };
                // SAFETY: `w` has `n_blocks` blocks of this format in every row, `acts` as many.
                let sums = unsafe { F::sums(&places, acts, row, at) };
                let total = _mm512_cvtepi32_ps(sums.total);
                for (j, at) in at.into_iter().enumerate().take(n_blocks - b) {
                    let scale = _mm512_set1_ps(scales[at]);
                    let d = _mm512_mul_ps(from_lane(sums.d, j * ROWS), scale);
                    acc = _mm512_fmadd_ps(from_lane(total, j * ROWS), d, acc);
                    if let Some((mins, dmin)) = sums.mins {
                        let mins = from_lane(_mm512_cvtepi32_ps(mins), j * ROWS);
                        let dmin = _mm512_mul_ps(from_lane(dmin, j * ROWS), scale);
                        acc = _mm512_fnmadd_ps(mins, dmin, acc);
                    }
                }
            }
            store(acc, out, n, first);
        }
    }
}

/// Asks for what the next rows hold at `offset`, so that all of them are near when their turn comes.
/// Requests past the end do nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn prefetch_next(w: &Weights<'_>, first: usize, offset: usize, block_bytes: usize) {
    let next = w.row(first).as_ptr().wrapping_add(ROWS * w.row_bytes() + offset);
    for line in 0..(ROWS * block_bytes).div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast());
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn store(acc: __m512, out: &mut Out<'_>, n: usize, first: usize) {
    let mut lanes = [0f32; 16];
    // SAFETY: the array has the vector's 16 floats.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), acc) };
    let len = ROWS.min(out.cols() - first);
    out.part(n, first, len).copy_from_slice(&lanes[..len]);
}
