//! Rounding activations to integers.

use std::arch::x86_64::*;

use crate::arch::generic::scales;
use crate::dot::{ActFormat, RoundedRowMut, WIDE_LIMIT};

/// See [`generic::quantize`](crate::arch::generic).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize(x: &[f32], row: &mut RoundedRowMut<'_>) {
    let wide = row.format == ActFormat::Q16x32;
    let limit = if wide { WIDE_LIMIT } else { 127.0 };
    let groups = x.as_chunks::<32>().0;
    let per_block = groups.len() / row.scales.len().max(1);
    let codes = row.codes.as_chunks_mut::<32>().0;
    let wide_codes = row.wide.as_chunks_mut::<32>().0;
    let sums = row.sums.as_chunks_mut::<2>().0;
    for (b, scale) in row.scales.iter_mut().enumerate() {
        let range = b * per_block..(b + 1) * per_block;
        let mut largest = _mm256_setzero_ps();
        for group in &groups[range.clone()] {
            let [v0, v1, v2, v3] = load(group);
            let magnitude = |v| _mm256_andnot_ps(_mm256_set1_ps(-0.0), v);
            let high = _mm256_max_ps(magnitude(v0), magnitude(v1));
            let low = _mm256_max_ps(magnitude(v2), magnitude(v3));
            largest = _mm256_max_ps(largest, _mm256_max_ps(high, low));
        }
        let (block_scale, inverse) = scales(max_lane(largest), limit);
        *scale = block_scale;
        let inverse = _mm256_set1_ps(inverse);
        for i in range {
            if wide {
                round_wide(&groups[i], inverse, &mut wide_codes[i]);
            } else {
                round(&groups[i], inverse, &mut codes[i], &mut sums[i]);
            }
        }
    }
}

/// 32 values to words, even ones before odd ones.
#[inline]
#[target_feature(enable = "avx2")]
fn round_wide(x: &[f32; 32], inverse: __m256, codes: &mut [i16; 32]) {
    let [a, b, c, d] = load(x).map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
    // Even values are the low words of dwords once odd ones are shifted out; pairs of vectors then
    // interleave within 128-bit halves, which the permutation undoes.
    let split = |a: __m256i, b: __m256i| {
        let words = _mm256_packs_epi32(a, b);
        let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
        ));
        // Each half: four evens and four odds of eight values, `a`'s before `b`'s in pairs.
        _mm256_shuffle_epi8(words, order)
    };
    let (low, high) = (split(a, b), split(c, d));
    let evens = _mm256_unpacklo_epi64(low, high);
    let odds = _mm256_unpackhi_epi64(low, high);
    // Dwords of `evens`: a0a2 b0b2 c0c2 d0d2 | a4a6 b4b6 c4c6 d4d6.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    // SAFETY: the array has the 64 bytes of two vectors.
    unsafe {
        let at = codes.as_mut_ptr().cast::<__m256i>();
        _mm256_storeu_si256(at, _mm256_permutevar8x32_epi32(evens, order));
        _mm256_storeu_si256(at.add(1), _mm256_permutevar8x32_epi32(odds, order));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[f32; 32]) -> [__m256; 4] {
    // SAFETY: four vectors of eight make the 32 values.
    [0, 8, 16, 24].map(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(i)) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn max_lane(v: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// 32 values to codes, and the sums of both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn round(x: &[f32; 32], inverse: __m256, codes: &mut [i8; 32], sums: &mut [i16; 2]) {
    // The conversion rounds to nearest, ties to even: Rust never changes the rounding mode.
    let [a, b, c, d] = load(x).map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
    let words = [_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)];
    let packed = _mm256_packs_epi16(words[0], words[1]);
    // Packing works within 128-bit halves; this puts the dwords back in order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let packed = _mm256_permutevar8x32_epi32(packed, order);
    // SAFETY: the array has the vector's 32 bytes.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), packed) };
    for (sum, words) in sums.iter_mut().zip(words) {
        let pairs = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
        let four =
            _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        *sum = _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_srli_epi64::<32>(two))) as i16;
    }
}
