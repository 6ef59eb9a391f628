//! Moves between lanes that several kernels share.

use std::arch::aarch64::*;

/// Lane `i` of the result is the sum of the lanes of `v[i]`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sum_each(v: [int32x4_t; 4]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]))
}

/// The float law's sum of eight lanes: `((0+4)+(2+6)) + ((1+5)+(3+7))`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn reduce(v: [float32x4_t; 2]) -> f32 {
    let four = vaddq_f32(v[0], v[1]);
    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
}

/// The transpose of four rows of four numbers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn transpose(r: [int32x4_t; 4]) -> [int32x4_t; 4] {
    let pairs = [
        vtrn1q_s32(r[0], r[1]),
        vtrn2q_s32(r[0], r[1]),
        vtrn1q_s32(r[2], r[3]),
        vtrn2q_s32(r[2], r[3]),
    ];
    let [ab, ab_odd, cd, cd_odd] = pairs.map(|v| vreinterpretq_s64_s32(v));
    let columns = [
        vtrn1q_s64(ab, cd),
        vtrn1q_s64(ab_odd, cd_odd),
        vtrn2q_s64(ab, cd),
        vtrn2q_s64(ab_odd, cd_odd),
    ];
    columns.map(|v| vreinterpretq_s32_s64(v))
}
