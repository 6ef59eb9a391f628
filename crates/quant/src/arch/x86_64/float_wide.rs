//! Weights stored as floats on 512 bits: a vector holds the eight sums of two outputs, two weight rows against one
//! activation row.

use std::arch::x86_64::*;

use super::float::{self, Bf16, F16, F32, Float, NEAR};
use crate::TensorType;
use crate::dot::{Acts, Out, Weights};

#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn matmul(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>) {
    // SAFETY: the pointers that the kernels make come from rows of `w` and `acts`, whose widths agree.
    unsafe {
        match w.ty() {
            TensorType::F32 if w.rows() >= LEAST => rows::<F32>(w, acts, out),
            TensorType::F16 if w.rows() >= LEAST => rows::<F16>(w, acts, out),
            TensorType::BF16 if w.rows() >= LEAST => rows::<Bf16>(w, acts, out),
            _ => float::matmul(w, acts, out),
        }
    }
}

/// Weight rows of the lowest tile: two vectors.
const LEAST: usize = 4;
/// Weight rows of the tallest tile: four vectors, whose sums are reduced together.
const TALL: usize = 8;
/// Bytes of a row that are fetched ahead within it, of a call's first rows, where one activation row meets them.
const FIRST_AHEAD: usize = 1 << 10;
/// Activation rows of the widest tile: with the tallest one's weights, 24 sums, four weights and an activation.
const WIDE: usize = 6;

/// Two vectors in one.
trait Pair: Float {
    /// Eight numbers from each of two rows.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn pair(low: *const u8, high: *const u8) -> __m512;
}

impl Pair for F32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx2,f16c")]
    unsafe fn pair(low: *const u8, high: *const u8) -> __m512 {
        // SAFETY: the caller's numbers.
        unsafe { join(F32::load(low), F32::load(high)) }
    }
}

impl Pair for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx2,f16c")]
    unsafe fn pair(low: *const u8, high: *const u8) -> __m512 {
        // SAFETY: the caller's numbers.
        _mm512_cvtph_ps(unsafe { sixteen_words(low, high) })
    }
}

impl Pair for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx2,f16c")]
    unsafe fn pair(low: *const u8, high: *const u8) -> __m512 {
        // SAFETY: the caller's numbers.
        let words = _mm512_cvtepu16_epi32(unsafe { sixteen_words(low, high) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sixteen_words(low: *const u8, high: *const u8) -> __m256i {
    // SAFETY: the caller's eight words on either side.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(low.cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(high.cast()))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn join(low: __m256, high: __m256) -> __m512 {
    let (low, high) = (_mm256_castps_pd(low), _mm256_castps_pd(high));
    _mm512_castpd_ps(_mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high))
}

/// Eight numbers, twice.
#[inline]
#[target_feature(enable = "avx512f")]
fn twice(v: __m256) -> __m512 {
    _mm512_castpd_ps(_mm512_broadcast_f64x4(_mm256_castps_pd(v)))
}

/// Tiles of weight rows times activation rows. A few activation rows at a time meet all weights.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
unsafe fn rows<F: Pair>(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>) {
    let near = (NEAR / w.cols().max(1)).clamp(WIDE, 96) / WIDE * WIDE;
    let mut first = 0;
    while first < out.rows() {
        let end = out.rows().min(first + near);
        let mut r = 0;
        while r < w.rows() {
            let tall = if w.rows() - r >= TALL { TALL } else { LEAST };
            // The last rows may be computed twice, to the same bits.
            let at = r.min(w.rows() - tall);
            let mut n = first;
            while n < end {
                // As few tiles as do, and those of much the same width.
                let wide = (end - n).div_ceil((end - n).div_ceil(WIDE));
                // SAFETY: the tile lies in both matrices.
                unsafe {
                    match (tall, wide) {
                        (TALL, 1) => tile::<F, 4, 1>(w, acts, (at, n), out),
                        (TALL, 2) => tile::<F, 4, 2>(w, acts, (at, n), out),
                        (TALL, 3) => tile::<F, 4, 3>(w, acts, (at, n), out),
                        (TALL, 4) => tile::<F, 4, 4>(w, acts, (at, n), out),
                        (TALL, 5) => tile::<F, 4, 5>(w, acts, (at, n), out),
                        (TALL, _) => tile::<F, 4, 6>(w, acts, (at, n), out),
                        (_, 1) => tile::<F, 2, 1>(w, acts, (at, n), out),
                        (_, 2) => tile::<F, 2, 2>(w, acts, (at, n), out),
                        (_, 3) => tile::<F, 2, 3>(w, acts, (at, n), out),
                        (_, 4) => tile::<F, 2, 4>(w, acts, (at, n), out),
                        (_, 5) => tile::<F, 2, 5>(w, acts, (at, n), out),
                        _ => tile::<F, 2, 6>(w, acts, (at, n), out),
                    }
                }
                n += wide;
            }
            r += tall;
        }
        first = end;
    }
}

/// Adds the whole lines of `2 P` weight rows times one activation row; returns how many there are in a row.
///
/// A line of every row is used up at a time: rows may lie a multiple of 4 KiB apart, in the same set of the first cache
/// level, which would not keep a line of each until its end.
///
/// # Safety
/// Rows must be as long as those of `w` and as `act`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
unsafe fn lone<F: Pair, const P: usize>(
    w: &Weights<'_>,
    (low, high): ([*const u8; P], [*const u8; P]),
    act: &[f32],
    acc: &mut [__m512; P],
) -> usize {
    let lines = w.cols() * F::BYTES / 64;
    let first = low[0] == w.row(0).as_ptr();
    for line in 0..lines {
        for j in 0..P {
            for row in [low[j], high[j]] {
                // The rows that come next, past the end for the last ones, which does nothing.
                let next = row.wrapping_add(2 * P * w.row_bytes() + 64 * line);
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                if first {
                    // Nobody has asked for these.
                    let next = row.wrapping_add(FIRST_AHEAD + 64 * line);
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                }
            }
            for eight in 0..8 / F::BYTES {
                let at = 64 * line + 8 * F::BYTES * eight;
                // SAFETY: a part of a whole line.
                unsafe {
                    let act = twice(_mm256_loadu_ps(act.as_ptr().add(at / F::BYTES)));
                    let weights = F::pair(low[j].add(at), high[j].add(at));
                    acc[j] = _mm512_fmadd_ps(weights, act, acc[j]);
                }
            }
        }
    }
    lines
}

/// `2 P` weight rows from `r` times `N` activation rows from `n`. A vector belongs to rows `P` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
unsafe fn tile<F: Pair, const P: usize, const N: usize>(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    (r, n): (usize, usize),
    out: &mut Out<'_>,
) {
    // No closures: the compiler does not inline them into a function with these features.
    let (mut low, mut high) = ([w.row(r).as_ptr(); P], [w.row(r + P).as_ptr(); P]);
    for (i, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
        (*low, *high) = (w.row(r + i).as_ptr(), w.row(r + P + i).as_ptr());
    }
    let mut near = [acts.f32_row(n); N];
    for (i, row) in near.iter_mut().enumerate() {
        *row = acts.f32_row(n + i);
    }
    let mut acc = [[_mm512_setzero_ps(); P]; N];
    let mut weights = [_mm512_setzero_ps(); P];
    let cols = w.cols();
    let lines = if N == 1 {
        // SAFETY: the rows have the columns of `w`.
        unsafe { lone::<F, P>(w, (low, high), near[0], &mut acc[0]) }
    } else {
        0
    };
    for eight in lines * 8 / F::BYTES..cols / 8 {
        let k = 8 * eight;
        let at = k * F::BYTES;
        if N > 1 && n == 0 && at.is_multiple_of(64) {
            // The rows that come next, past the end for the last ones, which does nothing.
            for row in [low, high].as_flattened() {
                let next = row.wrapping_add(2 * P * w.row_bytes() + at);
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
            }
        }
        // SAFETY: eight more columns exist in every row.
        unsafe {
            for j in 0..P {
                weights[j] = F::pair(low[j].add(at), high[j].add(at));
            }
            for i in 0..N {
                let act = twice(_mm256_loadu_ps(near[i].as_ptr().add(k)));
                for j in 0..P {
                    acc[i][j] = _mm512_fmadd_ps(weights[j], act, acc[i][j]);
                }
            }
        }
    }
    if !cols.is_multiple_of(8) {
        let k = cols - cols % 8;
        // SAFETY: the last columns are copied into zeros before they are loaded.
        unsafe {
            for j in 0..P {
                let (low, high) = (low[j].add(k * F::BYTES), high[j].add(k * F::BYTES));
                let last = float::last::<F>;
                weights[j] = join(last(low, cols - k), last(high, cols - k));
            }
            for i in 0..N {
                let act = twice(float::last_acts(&near[i][k..]));
                for j in 0..P {
                    acc[i][j] = _mm512_fmadd_ps(weights[j], act, acc[i][j]);
                }
            }
        }
    }
    for i in 0..N {
        let y = out.part(n + i, r, 2 * P);
        let mut sums = [acc[i][0]; 4];
        sums[..P].copy_from_slice(&acc[i]);
        // SAFETY: the slice has two floats for each vector.
        unsafe {
            if P == 4 {
                let order = _mm512_setr_epi32(0, 8, 2, 10, 4, 12, 6, 14, 0, 0, 0, 0, 0, 0, 0, 0);
                let y8 = _mm512_permutexvar_ps(order, reduce_each(sums));
                _mm256_storeu_ps(y.as_mut_ptr(), _mm512_castps512_ps256(y8));
            } else {
                let order = _mm512_setr_epi32(0, 8, 4, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
                let y4 = _mm512_permutexvar_ps(order, reduce_each(sums));
                _mm_storeu_ps(y.as_mut_ptr(), _mm512_castps512_ps128(y4));
            }
        }
    }
}

/// The float law's sums of eight lanes, `((0+4)+(2+6)) + ((1+5)+(3+7))`, of both halves of four vectors: the low
/// halves' in lanes 0, 8, 2 and 10, the high ones' in 4, 12, 6 and 14.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduce_each(v: [__m512; 4]) -> __m512 {
    // Four lanes each: low and high half of the first vector, then of the second.
    let (first, second) = (fold(v[0], v[1]), fold(v[2], v[3]));
    let (low, high) = (
        _mm512_shuffle_ps::<0b01_00_01_00>(first, second),
        _mm512_shuffle_ps::<0b11_10_11_10>(first, second),
    );
    let twos = _mm512_add_ps(low, high);
    _mm512_add_ps(twos, _mm512_permute_ps::<0b10_11_00_01>(twos))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn fold(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
    )
}
