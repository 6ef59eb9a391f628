//! Sums over lanes that several kernels share.

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
