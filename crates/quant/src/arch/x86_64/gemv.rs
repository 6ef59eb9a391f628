//! One or two activation rows: weights are read once, straight from the stored blocks.
//!
//! Eight weight rows go side by side, so that their exact block sums meet in the lanes of one vector
//! before the float accumulation.

use std::arch::x86_64::*;

use super::formats::{Format, Header};
use super::lanes::{gather_f16, sum_each, widen};
use crate::dot::{Out, RoundedRows, Weights, picked};

/// Rows side by side.
pub(super) const ROWS: usize = 8;

/// Any format but Q8_0 and IQ2_XXS.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn blocks<F: Format>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
) {
    let n_blocks = w.cols() / F::LEN;
    for first in (0..w.rows()).step_by(ROWS) {
        let rows = rows_from(w, first);
        for n in 0..out.rows() {
            let at = picked(index, n);
            let (codes, scales, sums) = (acts.codes(at), acts.scales(at), acts.sums(at));
            let mut acc = _mm256_setzero_ps();
            for b in 0..n_blocks {
                prefetch_next(w, first, b * ROWS * F::BYTES, F::BYTES);
                // SAFETY: `w` has whole blocks of this format and `acts` as many of its own.
                let (total, mins, d, dmin) = unsafe {
                    let mut blocks = rows;
                    for block in &mut blocks {
                        *block = block.add(b * F::BYTES);
                    }
                    let acts = (codes.as_ptr().add(b * F::LEN), sums.as_ptr().add(b * F::LEN / 16));
                    eight_blocks::<F>(blocks, acts)
                };
                let scale = _mm256_set1_ps(scales[b]);
                acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_mul_ps(d, scale), acc);
                if F::MINS {
                    let mins = _mm256_cvtepi32_ps(mins);
                    acc = _mm256_fnmadd_ps(mins, _mm256_mul_ps(dmin, scale), acc);
                }
            }
            store(acc, out, n, first);
        }
    }
}

/// Exact sums of one block of eight rows, of their minima, and the scales of both.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight_blocks<F: Format>(
    blocks: [*const u8; ROWS],
    (codes, sums): (*const i8, *const i16),
) -> (__m256i, __m256i, __m256, __m256) {
    let zero = _mm256_setzero_si256();
    let (mut totals, mut mins) = ([zero; ROWS], [zero; ROWS]);
    let (mut d, mut dmin) = ([0f32; ROWS], [0f32; ROWS]);
    for r in 0..ROWS {
        // SAFETY: the caller's block and activations; sums of a 256-block are 16 words.
        unsafe {
            let header = F::header(blocks[r]);
            totals[r] = block_sum::<F>(blocks[r], &header, codes);
            if F::LEN == 256 && (F::OFFSET_IN_PRODUCTS || F::MINS) {
                let sums = _mm256_loadu_si256(sums.cast());
                if F::OFFSET_IN_PRODUCTS {
                    let excess = _mm256_madd_epi16(_mm256_cvtepi8_epi16(header.scales), sums);
                    let offset = _mm256_set1_epi32(i32::from(F::OFFSET));
                    totals[r] = _mm256_sub_epi32(totals[r], _mm256_mullo_epi32(excess, offset));
                }
                mins[r] = _mm256_madd_epi16(_mm256_cvtepi8_epi16(header.mins), sums);
            }
            (d[r], dmin[r]) = F::d(blocks[r]);
        }
    }
    let mut total = sum_each(&totals);
    if F::LEN == 32 && F::OFFSET_IN_PRODUCTS {
        // SAFETY: a block of 32 has two sums.
        let sum = unsafe { i32::from(*sums) + i32::from(*sums.add(1)) };
        total = _mm256_sub_epi32(total, _mm256_set1_epi32(sum * i32::from(F::OFFSET)));
    }
    let mins = if F::MINS { sum_each(&mins) } else { zero };
    // SAFETY: both arrays have eight floats.
    unsafe { (total, mins, _mm256_loadu_ps(d.as_ptr()), _mm256_loadu_ps(dmin.as_ptr())) }
}

/// Scaled products of one block, still to be added over the lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn block_sum<F: Format>(block: *const u8, header: &Header, codes: *const i8) -> __m256i {
    let mut total = _mm256_setzero_si256();
    // Scales of the first halves of every 32 in the low lane, of the second halves in the high one.
    let halves = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    let split = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(header.scales, halves));
    for g in 0..F::LEN / 32 {
        // SAFETY: the caller's block and its codes.
        let products =
            unsafe { F::products(block, header, g, _mm256_loadu_si256(codes.add(32 * g).cast())) };
        let scale = if F::LEN == 32 {
            _mm256_set1_epi16(1)
        } else {
            let word = (2 * g) | (2 * g + 1) << 8;
            _mm256_shuffle_epi8(split, _mm256_set1_epi16(word as i16))
        };
        total = _mm256_add_epi32(total, _mm256_madd_epi16(products, scale));
    }
    total
}

/// Q8_0 meets words: its bytes are widened by shifts, even ones and odd ones apart.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q8_0(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
) {
    const BYTES: usize = 34;
    let n_blocks = w.cols() / 32;
    for first in (0..w.rows()).step_by(ROWS) {
        let rows = rows_from(w, first);
        for n in 0..out.rows() {
            let at = picked(index, n);
            let (codes, scales) = (acts.wide(at), acts.scales(at));
            let mut acc = _mm256_setzero_ps();
            for b in 0..n_blocks {
                prefetch_next(w, first, b * ROWS * BYTES, BYTES);
                // SAFETY: `w` and `acts` have `n_blocks` blocks; each of `w` is a scale and 32 bytes.
                let (totals, d) = unsafe {
                    let mut blocks = rows;
                    for block in &mut blocks {
                        *block = block.add(b * BYTES);
                    }
                    let evens = _mm256_loadu_si256(codes.as_ptr().add(32 * b).cast());
                    let odds = _mm256_loadu_si256(codes.as_ptr().add(32 * b + 16).cast());
                    let mut totals = [_mm256_setzero_si256(); ROWS];
                    for (total, block) in totals.iter_mut().zip(blocks) {
                        let [even, odd] = widen(_mm256_loadu_si256(block.add(2).cast()));
                        let even = _mm256_madd_epi16(even, evens);
                        *total = _mm256_add_epi32(even, _mm256_madd_epi16(odd, odds));
                    }
                    (totals, gather_f16(blocks))
                };
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(scales[b]));
                acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum_each(&totals)), scale, acc);
            }
            store(acc, out, n, first);
        }
    }
}

/// Eight rows from `first` on; past the end the last one stands in, and its results are dropped.
#[inline]
pub(super) fn rows_from(w: &Weights<'_>, first: usize) -> [*const u8; ROWS] {
    std::array::from_fn(|r| w.row((first + r).min(w.rows() - 1)).as_ptr())
}

/// Asks for what the next eight rows hold at `offset`, so that all of them are near when their turn
/// comes. Requests past the end do nothing.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn prefetch_next(w: &Weights<'_>, first: usize, offset: usize, block_bytes: usize) {
    let next = w.row(first).as_ptr().wrapping_add(ROWS * w.row_bytes() + offset);
    for line in 0..(ROWS * block_bytes).div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast());
    }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(acc: __m256, out: &mut Out<'_>, n: usize, first: usize) {
    let mut lanes = [0f32; ROWS];
    // SAFETY: the array has the vector's eight floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc) };
    let len = ROWS.min(out.cols() - first);
    out.part(n, first, len).copy_from_slice(&lanes[..len]);
}
