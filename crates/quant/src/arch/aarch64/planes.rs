//! Words as two planes of bytes: `word = 32 * high + low`, so that byte products serve them too.
//!
//! Codes of activations keep within ±4095 and sums of 16 int8 codes within ±2032, so that `high` is a
//! signed byte; `low` is below 32.

use std::arch::aarch64::*;

/// 32 high bytes, then 32 low bytes.
pub(super) type Planes = [int8x16_t; 4];

const LOW_BITS: i32 = 5;

/// The planes of 32 codes, which lie even ones first (see [`wide_place`](crate::dot::wide_place)).
///
/// # Safety
/// `codes` must lead to 32 words.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn of_codes(codes: *const i16) -> Planes {
    // SAFETY: promised by the caller.
    let [e0, e1, o0, o1] = [0, 8, 16, 24].map(|i| unsafe { vld1q_s16(codes.add(i)) });
    let ([even_high, even_low], [odd_high, odd_low]) = (split(e0, e1), split(o0, o1));
    [
        vzip1q_s8(even_high, odd_high),
        vzip2q_s8(even_high, odd_high),
        vzip1q_s8(even_low, odd_low),
        vzip2q_s8(even_low, odd_low),
    ]
}

/// The planes of a block's 16 sums, a vector each.
///
/// # Safety
/// `sums` must lead to 16 words.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn of_sums(sums: *const i16) -> [int8x16_t; 2] {
    // SAFETY: promised by the caller.
    let [first, last] = [0, 8].map(|i| unsafe { vld1q_s16(sums.add(i)) });
    split(first, last)
}

/// The high and the low bytes of 16 words.
#[inline]
#[target_feature(enable = "neon")]
fn split(a: int16x8_t, b: int16x8_t) -> [int8x16_t; 2] {
    let high = vshrn_high_n_s16::<LOW_BITS>(vshrn_n_s16::<LOW_BITS>(a), b);
    let low = vuzp1q_s8(vreinterpretq_s8_s16(a), vreinterpretq_s8_s16(b));
    [high, vandq_s8(low, vdupq_n_s8((1 << LOW_BITS) - 1))]
}

/// What a sum over the high plane counts in a sum over the words.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn raise(high: int32x4_t) -> int32x4_t {
    vshlq_n_s32::<LOW_BITS>(high)
}
