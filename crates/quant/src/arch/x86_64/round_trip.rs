//! Stored KV rows as floats.

use std::arch::x86_64::*;

use crate::f8::ue8m0_decode;
use crate::round_trip::MixedRow;

/// E4M3 codes times `scale`; returns how many were decoded: whole sixteens.
///
/// A code's exponent and mantissa are those of a half-precision number 2^-8 times its value, subnormals
/// included; only NaN has another code.
///
/// # Panics
/// When `out` is shorter than `codes`.
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn fp8(codes: &[u8], scale: f32, out: &mut [f32]) -> usize {
    let (groups, rest) = codes.as_chunks::<16>();
    let (outs, _) = out[..codes.len()].as_chunks_mut::<16>();
    let (magnitude, nan) = (_mm256_set1_epi16(0x7F), _mm256_set1_epi16(0x7E00));
    for (codes, out) in groups.iter().zip(outs) {
        // SAFETY: the array has 16 bytes.
        let codes = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) });
        let bits = _mm256_and_si256(codes, magnitude);
        let is_nan = _mm256_cmpeq_epi16(bits, magnitude);
        let half = _mm256_blendv_epi8(_mm256_slli_epi16::<7>(bits), nan, is_nan);
        let sign = _mm256_slli_epi16::<8>(_mm256_andnot_si256(magnitude, codes));
        store(_mm256_or_si256(half, sign), [256.0, scale], out);
    }
    codes.len() - rest.len()
}

/// A row of E4M3 codes, `block` of them with each UE8M0 scale; 32 at a time, of which blocks must be multiples.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn fp8_row(codes: &[u8], scales: &[u8], block: usize, out: &mut [f32]) {
    let blocks = out.chunks_exact_mut(block).zip(codes.chunks_exact(block));
    for ((out, codes), &scale) in blocks.zip(scales) {
        fp8_block(codes, ue8m0_decode(scale), out);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn fp8_block(codes: &[u8], scale: f32, out: &mut [f32]) {
    let (groups, _) = codes.as_chunks::<32>();
    let (outs, _) = out.as_chunks_mut::<32>();
    // 2^8 times a code is exact, so that the factors may be multiplied first, unless that is infinite.
    let factors = if scale < 1e30 { [256.0 * scale, 1.0] } else { [256.0, scale] };
    let [first, second] = factors.map(|factor| _mm512_set1_ps(factor));
    for (codes, out) in groups.iter().zip(outs) {
        let [low, high] = fp8_halves(codes).map(|half| _mm512_mul_ps(half, first));
        // SAFETY: the array has 32 floats.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(low, second));
            _mm512_storeu_ps(out.as_mut_ptr().add(16), _mm512_mul_ps(high, second));
        }
    }
}

/// 2^-8 times the values of codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn fp8_halves(codes: &[u8; 32]) -> [__m512; 2] {
    let (magnitude, nan) = (_mm512_set1_epi16(0x7F), _mm512_set1_epi16(0x7E00));
    // SAFETY: the array has 32 bytes.
    let codes = _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) });
    let bits = _mm512_and_si512(codes, magnitude);
    let is_nan = _mm512_cmpeq_epi16_mask(bits, magnitude);
    let half = _mm512_mask_mov_epi16(_mm512_slli_epi16::<7>(bits), is_nan, nan);
    let sign = _mm512_slli_epi16::<8>(_mm512_andnot_si512(magnitude, codes));
    let half = _mm512_or_si512(half, sign);
    [
        _mm512_cvtph_ps(_mm512_castsi512_si256(half)),
        _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(half)),
    ]
}

/// Scales that stay finite when they are multiplied by 2^8, and are no subnormals.
const PLAIN_SCALES: std::ops::RangeInclusive<u8> = 1..=246;

/// See [`MixedRow::decode`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn mixed_rows(shape: &MixedRow, rows: &[&[u8]], ahead: &[&[u8]], out: &mut [f32]) {
    assert!(rows.len() * shape.dim <= out.len(), "room for the rows");
    for (i, (row, out)) in rows.iter().zip(out.chunks_exact_mut(shape.dim)).enumerate() {
        for line in ahead.get(i).unwrap_or(&&[][..]).chunks(64) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
        let (coded, tail) = out.split_at_mut(shape.codes);
        let (codes, scales) = row.split_at(shape.codes);
        let (blocks, outs) = (codes.as_chunks::<64>().0, coded.as_chunks_mut::<64>().0);
        for ((codes, out), scale) in blocks.iter().zip(outs).zip(scales) {
            if !PLAIN_SCALES.contains(scale) {
                fp8_block(codes, ue8m0_decode(*scale), out);
                continue;
            }
            let factor = _mm512_set1_epi32((i32::from(*scale) + 8) << 23);
            let factor = _mm512_castsi512_ps(factor);
            let (codes, outs) = (codes.as_chunks::<32>().0, out.as_chunks_mut::<32>().0);
            for (codes, out) in codes.iter().zip(outs) {
                let [low, high] = fp8_halves(codes);
                // SAFETY: the array has 32 floats.
                unsafe {
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(low, factor));
                    _mm512_storeu_ps(out.as_mut_ptr().add(16), _mm512_mul_ps(high, factor));
                }
            }
        }
        let halves = &row[shape.halves_at..][..2 * tail.len()];
        let done = f16_wide(halves, tail);
        if done < tail.len() {
            crate::round_trip::f16_decode(&halves[2 * done..], &mut tail[done..]);
        }
    }
}

/// As [`f16`], 16 numbers a vector.
///
/// # Panics
/// When `out` is shorter than the numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn f16_wide(bytes: &[u8], out: &mut [f32]) -> usize {
    let (groups, rest) = bytes.as_chunks::<32>();
    let (outs, _) = out[..bytes.len() / 2].as_chunks_mut::<16>();
    for (bytes, out) in groups.iter().zip(outs) {
        // SAFETY: one array has 32 bytes, the other 16 floats.
        unsafe {
            let half = _mm256_loadu_si256(bytes.as_ptr().cast());
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(half));
        }
    }
    (bytes.len() - rest.len()) / 2
}

/// Half-precision numbers; returns how many were decoded: whole sixteens.
///
/// # Panics
/// When `out` is shorter than the numbers.
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn f16(bytes: &[u8], out: &mut [f32]) -> usize {
    let (groups, rest) = bytes.as_chunks::<32>();
    let (outs, _) = out[..bytes.len() / 2].as_chunks_mut::<16>();
    for (bytes, out) in groups.iter().zip(outs) {
        // SAFETY: the array has 32 bytes.
        let half = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        store(half, [1.0, 1.0], out);
    }
    (bytes.len() - rest.len()) / 2
}

/// Sixteen halves times both factors in turn.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn store(half: __m256i, factors: [f32; 2], out: &mut [f32; 16]) {
    let halves = [_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half)];
    for (out, half) in out.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
        let mut y = _mm256_cvtph_ps(half);
        for factor in factors {
            y = _mm256_mul_ps(y, _mm256_set1_ps(factor));
        }
        // SAFETY: the array has eight floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), y) };
    }
}
