//! Elementwise kernels of [`vector`], compiled for vectors of sixteen where that is faster.

use crate::arch::vector;
use crate::dot::{PoolEntry, WeightedSum};

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    vector::exp_sum(x, max)
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn scale_max(x: &mut [f32], scale: f32, least: f32) -> f32 {
    vector::scale_max(x, scale, least)
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn swiglu(gate: &mut [f32], up: &[f32], clamp: f32, scale: f32) {
    vector::swiglu(gate, up, clamp, scale);
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn pool(entry: &PoolEntry<'_>, sum: &mut [f32], weighted: &mut [f32]) {
    vector::pool(entry, sum, weighted);
}

/// Eight heads are as many sums as a multiplier of four cycles needs twice over.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn weighted_sum(sum: &WeightedSum<'_>, out: &mut [f32]) {
    vector::weighted_sum::<8>(sum, out);
}
