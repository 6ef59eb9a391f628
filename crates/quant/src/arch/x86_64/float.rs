//! Weights stored as floats, and plain float vectors; every other format is decoded first.
//!
//! Every output has eight sums side by side in one vector of 256 bits, as the law says.

use std::arch::x86_64::*;

use super::lanes::{reduce, reduce_each};
use crate::TensorType;
use crate::arch::generic;
use crate::dot::{Acts, Out, Weights};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn matmul(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>) {
    // SAFETY: the pointers that the kernels make come from rows of `w` and `acts`, whose widths agree.
    unsafe {
        match w.ty() {
            TensorType::F32 => rows::<F32>(w, acts, out),
            TensorType::F16 => rows::<F16>(w, acts, out),
            TensorType::BF16 => rows::<Bf16>(w, acts, out),
            ty => decoded(ty, w, acts, out),
        }
    }
}

/// Formats without a kernel.
fn decoded(ty: TensorType, w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>) {
    for r in 0..w.rows() {
        for n in 0..out.rows() {
            out.part(n, r, 1)[0] = generic::dot_decoded(ty, w.row(r), acts.f32_row(n));
        }
    }
}

/// A stored float.
pub(super) trait Float {
    const BYTES: usize;

    /// Eight numbers.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load(at: *const u8) -> __m256;
}

pub(super) struct F32;

impl Float for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's eight numbers.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

pub(super) struct F16;

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's eight numbers.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
}

pub(super) struct Bf16;

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's eight numbers.
        let words = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(at.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
    }
}

/// Activation values that are worked on while they are in the second cache level (256 KiB).
pub(super) const NEAR: usize = 65536;

/// Tiles of weight rows times activation rows. A few activation rows at a time meet all weights.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<F: Float>(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>) {
    let near = (NEAR / w.cols().max(1)).clamp(4, 64) / 4 * 4;
    for first in (0..out.rows()).step_by(near) {
        let end = out.rows().min(first + near);
        let mut r = 0;
        while r < w.rows() {
            // Lone activation rows need more weight rows side by side to keep the multipliers busy.
            let tall = match w.rows() - r {
                8.. if out.rows() < 4 => 8,
                3.. => 3,
                _ => 1,
            };
            let mut n = first;
            while n < end {
                // SAFETY: the tile lies in both matrices.
                unsafe {
                    n += match (tall, end - n) {
                        (8, _) => tile::<F, 8, 1>(w, acts, (r, n), out),
                        (3, 4..) => tile::<F, 3, 4>(w, acts, (r, n), out),
                        (3, _) => tile::<F, 3, 1>(w, acts, (r, n), out),
                        (_, 4..) => tile::<F, 1, 4>(w, acts, (r, n), out),
                        _ => tile::<F, 1, 1>(w, acts, (r, n), out),
                    };
                }
            }
            r += tall;
        }
    }
}

/// Weight rows of the tallest tile, whose sums are reduced together.
const TALL: usize = 8;

/// `R` weight rows from `r` times `N` activation rows from `n`; returns `N`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<F: Float, const R: usize, const N: usize>(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    (r, n): (usize, usize),
    out: &mut Out<'_>,
) -> usize {
    // No closures: the compiler does not inline them into a function with these features.
    let (mut rows, mut near) = ([w.row(r).as_ptr(); R], [acts.f32_row(n); N]);
    for (i, row) in rows.iter_mut().enumerate() {
        *row = w.row(r + i).as_ptr();
    }
    for (i, row) in near.iter_mut().enumerate() {
        *row = acts.f32_row(n + i);
    }
    let mut acc = [[_mm256_setzero_ps(); R]; N];
    let mut weights = [_mm256_setzero_ps(); R];
    let cols = w.cols();
    for k in (0..cols - cols % 8).step_by(8) {
        let at = k * F::BYTES;
        if N == 1 && at.is_multiple_of(64) {
            // The rows that come next, past the end for the last ones, which does nothing.
            for row in rows {
                let next = row.wrapping_add(R * w.row_bytes() + at);
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
            }
        }
        // SAFETY: eight more columns exist in every row.
        unsafe {
            for j in 0..R {
                weights[j] = F::load(rows[j].add(at));
            }
            for i in 0..N {
                let act = _mm256_loadu_ps(near[i].as_ptr().add(k));
                for j in 0..R {
                    acc[i][j] = _mm256_fmadd_ps(weights[j], act, acc[i][j]);
                }
            }
        }
    }
    if !cols.is_multiple_of(8) {
        let k = cols - cols % 8;
        // SAFETY: the last columns are copied into zeros before they are loaded.
        unsafe {
            for j in 0..R {
                weights[j] = last::<F>(rows[j].add(k * F::BYTES), cols - k);
            }
            for i in 0..N {
                let act = last_acts(&near[i][k..]);
                for j in 0..R {
                    acc[i][j] = _mm256_fmadd_ps(weights[j], act, acc[i][j]);
                }
            }
        }
    }
    for i in 0..N {
        if R == TALL {
            let mut sums = [_mm256_setzero_ps(); TALL];
            sums.copy_from_slice(&acc[i]);
            let y = out.part(n + i, r, TALL);
            // SAFETY: the slice has eight floats.
            unsafe { _mm256_storeu_ps(y.as_mut_ptr(), reduce_each(&sums)) };
        } else {
            for j in 0..R {
                out.part(n + i, r + j, 1)[0] = reduce(acc[i][j]);
            }
        }
    }
    N
}

/// Fewer than eight numbers, then zeros.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn last<F: Float>(at: *const u8, n: usize) -> __m256 {
    let mut bytes = [0u8; 32];
    // SAFETY: the caller has `n < 8` numbers of at most four bytes there.
    unsafe {
        std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), n * F::BYTES);
        F::load(bytes.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn last_acts(x: &[f32]) -> __m256 {
    let mut padded = [0f32; 8];
    padded[..x.len()].copy_from_slice(x);
    // SAFETY: the array has eight floats.
    unsafe { _mm256_loadu_ps(padded.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = _mm256_setzero_ps();
    let (a, a_last) = a.as_chunks::<8>();
    let (b, b_last) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        // SAFETY: both arrays have eight floats.
        let (a, b) = unsafe { (_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr())) };
        acc = _mm256_fmadd_ps(a, b, acc);
    }
    if !a_last.is_empty() {
        acc = _mm256_fmadd_ps(last_acts(a_last), last_acts(b_last), acc);
    }
    reduce(acc)
}
