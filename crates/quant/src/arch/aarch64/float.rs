//! Weights stored as floats, and plain float vectors; every other format is decoded first.
//!
//! Sixteen-bit floats are widened and multiplied in f32, as the float law says: instructions that
//! multiply them as they are (`fmlal`, `bfdot`, `bfmmla`) round the activations first.

use std::arch::aarch64::*;

use super::lanes::reduce;
use crate::TensorType;
use crate::arch::generic;
use crate::dot::{Acts, Out, Weights};

#[target_feature(enable = "neon")]
pub(super) unsafe fn matmul(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>) {
    // SAFETY: the pointers that the kernels make come from rows of `w` and `acts`, whose widths agree.
    unsafe {
        match w.ty() {
            TensorType::F32 => rows::<F32>(w, acts, out),
            TensorType::F16 => rows::<F16>(w, acts, out),
            TensorType::BF16 => rows::<Bf16>(w, acts, out),
            ty => {
                for r in 0..w.rows() {
                    for n in 0..out.rows() {
                        let y = generic::dot_decoded(ty, w.row(r), acts.f32_row(n));
                        out.part(n, r, 1)[0] = y;
                    }
                }
            }
        }
    }
}

/// A stored float.
trait Float {
    const BYTES: usize;

    /// Eight numbers.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load(at: *const u8) -> [float32x4_t; 2];
}

struct F32;

impl Float for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: the caller's eight numbers.
        [0, 16].map(|i| vreinterpretq_f32_u8(unsafe { vld1q_u8(at.add(i)) }))
    }
}

struct F16;

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: the caller's eight numbers.
        let bits = vreinterpretq_u16_u8(unsafe { vld1q_u8(at) });
        [vget_low_u16(bits), vget_high_u16(bits)].map(|v| vcvt_f32_f16(vreinterpret_f16_u16(v)))
    }
}

struct Bf16;

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: the caller's eight numbers.
        let bits = vreinterpretq_u16_u8(unsafe { vld1q_u8(at) });
        let zero = vdupq_n_u16(0);
        [vzip1q_u16(zero, bits), vzip2q_u16(zero, bits)].map(|v| vreinterpretq_f32_u16(v))
    }
}

/// Activation values that are worked on while they are in the second cache level (256 KiB).
const NEAR: usize = 65536;

/// Tiles of weight rows times activation rows. A few activation rows at a time meet all weights.
#[target_feature(enable = "neon")]
unsafe fn rows<F: Float>(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>) {
    let near = (NEAR / w.cols().max(1)).clamp(4, 64) / 4 * 4;
    for first in (0..out.rows()).step_by(near) {
        let end = out.rows().min(first + near);
        let mut r = 0;
        while r < w.rows() {
            let tall = w.rows() - r;
            let mut n = first;
            while n < end {
                // SAFETY: the tile lies in both matrices.
                unsafe {
                    n += match (tall, end - n) {
                        (4.., 2..) => tile::<F, 4, 2>(w, acts, (r, n), out),
                        (4.., _) => tile::<F, 4, 1>(w, acts, (r, n), out),
                        (_, 4..) => tile::<F, 1, 4>(w, acts, (r, n), out),
                        _ => tile::<F, 1, 1>(w, acts, (r, n), out),
                    };
                }
            }
            r += if tall >= 4 { 4 } else { 1 };
        }
    }
}

/// `R` weight rows from `r` times `N` activation rows from `n`; returns `N`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile<F: Float, const R: usize, const N: usize>(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    (r, n): (usize, usize),
    out: &mut Out<'_>,
) -> usize {
    let weights: [*const u8; R] = std::array::from_fn(|i| w.row(r + i).as_ptr());
    let acts: [&[f32]; N] = std::array::from_fn(|i| acts.f32_row(n + i));
    let mut acc = [[[vdupq_n_f32(0.0); 2]; R]; N];
    let cols = w.cols();
    for k in (0..cols - cols % 8).step_by(8) {
        // SAFETY: eight more columns exist in every row.
        unsafe {
            let weights = weights.map(|row| F::load(row.add(k * F::BYTES)));
            for (acc, act) in acc.iter_mut().zip(acts) {
                let act = [vld1q_f32(act.as_ptr().add(k)), vld1q_f32(act.as_ptr().add(k + 4))];
                add(acc, &weights, act);
            }
        }
    }
    if !cols.is_multiple_of(8) {
        let k = cols - cols % 8;
        // SAFETY: the last columns are copied into zeros before they are loaded.
        let weights = weights.map(|row| unsafe { last::<F>(row.add(k * F::BYTES), cols - k) });
        for (acc, act) in acc.iter_mut().zip(acts) {
            add(acc, &weights, last_acts(&act[k..]));
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        for (j, acc) in acc.into_iter().enumerate() {
            out.part(n + i, r + j, 1)[0] = reduce(acc);
        }
    }
    N
}

/// Adds the products of eight columns.
#[inline]
#[target_feature(enable = "neon")]
fn add<const R: usize>(
    acc: &mut [[float32x4_t; 2]; R],
    weights: &[[float32x4_t; 2]; R],
    act: [float32x4_t; 2],
) {
    for (acc, weights) in acc.iter_mut().zip(weights) {
        for half in 0..2 {
            acc[half] = vfmaq_f32(acc[half], weights[half], act[half]);
        }
    }
}

/// Fewer than eight numbers, then zeros.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn last<F: Float>(at: *const u8, n: usize) -> [float32x4_t; 2] {
    let mut bytes = [0u8; 32];
    // SAFETY: the caller has `n < 8` numbers of at most four bytes there.
    unsafe {
        std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), n * F::BYTES);
        F::load(bytes.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn last_acts(x: &[f32]) -> [float32x4_t; 2] {
    let mut padded = [0f32; 8];
    padded[..x.len()].copy_from_slice(x);
    eight(&padded)
}

#[inline]
#[target_feature(enable = "neon")]
fn eight(x: &[f32; 8]) -> [float32x4_t; 2] {
    // SAFETY: the array has the floats of two vectors.
    unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x.as_ptr().add(4))] }
}

#[target_feature(enable = "neon")]
pub(super) unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [[vdupq_n_f32(0.0); 2]];
    let (a, a_last) = a.as_chunks::<8>();
    let (b, b_last) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        add(&mut acc, &[eight(a)], eight(b));
    }
    if !a_last.is_empty() {
        add(&mut acc, &[last_acts(a_last)], last_acts(b_last));
    }
    reduce(acc[0])
}
