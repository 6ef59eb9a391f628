//! Rounding activations to integers.

use std::arch::aarch64::*;

use crate::arch::generic::scales;
use crate::dot::{ActFormat, RoundedRowMut, WIDE_LIMIT};

/// See [`generic::quantize`](crate::arch::generic).
#[target_feature(enable = "neon")]
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
        let mut largest = vdupq_n_f32(0.0);
        for v in groups[range.clone()].iter().flat_map(|group| load(group)) {
            // A NaN is passed over, as the portable kernel does.
            largest = vmaxnmq_f32(largest, vabsq_f32(v));
        }
        let (block_scale, inverse) = scales(vmaxnmvq_f32(largest), limit);
        *scale = block_scale;
        for i in range {
            let words = round(&groups[i], inverse);
            if wide {
                store_wide(words, &mut wide_codes[i]);
            } else {
                store(words, &mut codes[i], &mut sums[i]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[f32; 32]) -> [float32x4_t; 8] {
    // SAFETY: eight vectors of four make the 32 values.
    std::array::from_fn(|i| unsafe { vld1q_f32(x.as_ptr().add(4 * i)) })
}

/// 32 values as words, ties to even.
#[inline]
#[target_feature(enable = "neon")]
fn round(x: &[f32; 32], inverse: f32) -> [int16x8_t; 4] {
    let v = load(x).map(|v| vcvtnq_s32_f32(vmulq_n_f32(v, inverse)));
    std::array::from_fn(|i| vmovn_high_s32(vmovn_s32(v[2 * i]), v[2 * i + 1]))
}

/// Bytes, and the sums of both halves.
#[inline]
#[target_feature(enable = "neon")]
fn store(words: [int16x8_t; 4], codes: &mut [i8; 32], sums: &mut [i16; 2]) {
    for (half, sum) in sums.iter_mut().enumerate() {
        let bytes = vmovn_high_s16(vmovn_s16(words[2 * half]), words[2 * half + 1]);
        // SAFETY: the array has 16 bytes for each half.
        unsafe { vst1q_s8(codes.as_mut_ptr().add(16 * half), bytes) };
        *sum = vaddlvq_s8(bytes);
    }
}

/// Words, even ones before odd ones.
#[inline]
#[target_feature(enable = "neon")]
fn store_wide(words: [int16x8_t; 4], codes: &mut [i16; 32]) {
    let [a, b, c, d] = words;
    let parts = [vuzp1q_s16(a, b), vuzp1q_s16(c, d), vuzp2q_s16(a, b), vuzp2q_s16(c, d)];
    for (i, part) in parts.into_iter().enumerate() {
        // SAFETY: the array has the 32 words of four vectors.
        unsafe { vst1q_s16(codes.as_mut_ptr().add(8 * i), part) };
    }
}
