//! Multiplying bytes and adding up, by three instruction sets, and how each wants its operands.
//!
//! `std::arch` has no stable `sdot` and `smmla` yet, so those two are written as assembly.

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::transpose;

/// Products of signed bytes, added exactly in int32.
///
/// A *step* is 16 columns of eight weight rows and of two activation rows. Its sums are four vectors,
/// each lane of which belongs to one weight row and one activation row. The default layout has the
/// rows of one half to a vector: the first activation row with both halves, then the second.
///
/// # Safety
/// Every method needs the instructions of its implementor, and nothing else.
pub(super) trait Mac {
    /// Adds 16 products to `acc`, each to any of its lanes.
    unsafe fn dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;

    /// Adds a step's products to its sums.
    unsafe fn step(sums: &mut [int32x4_t; 4], weights: &[int8x16_t; 8], acts: [int8x16_t; 2]);

    /// The weights of a step, from 16 columns of each row. By default four rows share a vector, with
    /// four columns each: `[columns 4s..4s + 4][row half]`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pack(rows: [int8x16_t; 8]) -> [int8x16_t; 8] {
        let words = rows.map(|row| vreinterpretq_s32_s8(row));
        let [a, b, c, d, e, f, g, h] = words;
        let halves = [transpose([a, b, c, d]), transpose([e, f, g, h])];
        std::array::from_fn(|i| vreinterpretq_s8_s32(halves[i % 2][i / 2]))
    }

    /// The activations of a step, from 16 columns of each row.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair(rows: [int8x16_t; 2]) -> [int8x16_t; 2] {
        rows
    }

    /// A number per weight row, to the lanes of the sums.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn spread(rows: [float32x4_t; 2]) -> [float32x4_t; 4] {
        [rows[0], rows[1], rows[0], rows[1]]
    }

    /// As `spread`, of integers.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn spread_s32(rows: [int32x4_t; 2]) -> [int32x4_t; 4] {
        // SAFETY: promised by the caller. Lanes move; nothing is computed with them.
        let spread = unsafe { Self::spread(rows.map(|v| vreinterpretq_f32_s32(v))) };
        spread.map(|v| vreinterpretq_s32_f32(v))
    }

    /// A number per activation row, to the lanes of the sums.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn spread_acts(rows: float32x2_t) -> [float32x4_t; 4] {
        let (first, second) = (vdupq_lane_f32::<0>(rows), vdupq_lane_f32::<1>(rows));
        [first, first, second, second]
    }

    /// Eight outputs of each activation row, to the lanes of the sums.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn split(rows: [[float32x4_t; 2]; 2]) -> [float32x4_t; 4] {
        [rows[0][0], rows[0][1], rows[1][0], rows[1][1]]
    }

    /// The inverse of `split`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn join(lanes: [float32x4_t; 4]) -> [[float32x4_t; 2]; 2] {
        [[lanes[0], lanes[1]], [lanes[2], lanes[3]]]
    }
}

/// What every processor has: products of bytes as words, added in pairs.
pub(super) struct Plain;

impl Mac for Plain {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        let acc = vpadalq_s16(acc, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        vpadalq_s16(acc, vmull_high_s8(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn step(sums: &mut [int32x4_t; 4], weights: &[int8x16_t; 8], acts: [int8x16_t; 2]) {
        for (n, act) in acts.into_iter().enumerate() {
            let act = vreinterpretq_s32_s8(act);
            let columns = [
                vdupq_laneq_s32::<0>(act),
                vdupq_laneq_s32::<1>(act),
                vdupq_laneq_s32::<2>(act),
                vdupq_laneq_s32::<3>(act),
            ];
            for (s, columns) in columns.into_iter().enumerate() {
                let columns = vreinterpretq_s8_s32(columns);
                for half in 0..2 {
                    let rows = weights[2 * s + half];
                    let low = vmull_s8(vget_low_s8(rows), vget_low_s8(columns));
                    let high = vmull_high_s8(rows, columns);
                    let products = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
                    sums[2 * n + half] = vaddq_s32(sums[2 * n + half], products);
                }
            }
        }
    }
}

/// `sdot`: every lane gains four products.
pub(super) struct Dot;

impl Dot {
    /// Four weight rows times four columns of one activation row, the `COLUMNS`-th of its vector.
    ///
    /// # Safety
    /// The processor must have the dot-product instructions.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn columns<const COLUMNS: usize>(
        mut acc: int32x4_t,
        weights: int8x16_t,
        act: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: the caller's processor has the instruction, which touches registers only.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {weights:v}.16b, {act:v}.4b[{columns}]",
                acc = inout(vreg) acc,
                weights = in(vreg) weights,
                act = in(vreg) act,
                columns = const COLUMNS,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        acc
    }
}

impl Mac for Dot {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: as in `columns`.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
                acc = inout(vreg) acc,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        acc
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn step(sums: &mut [int32x4_t; 4], weights: &[int8x16_t; 8], acts: [int8x16_t; 2]) {
        for (n, act) in acts.into_iter().enumerate() {
            for half in 0..2 {
                let sum = &mut sums[2 * n + half];
                // SAFETY: promised by the caller.
                unsafe {
                    *sum = Self::columns::<0>(*sum, weights[half], act);
                    *sum = Self::columns::<1>(*sum, weights[2 + half], act);
                    *sum = Self::columns::<2>(*sum, weights[4 + half], act);
                    *sum = Self::columns::<3>(*sum, weights[6 + half], act);
                }
            }
        }
    }
}

/// `smmla`: two weight rows times two activation rows, eight columns at once.
///
/// Weights are `[columns 8s..8s + 8][row pair]`, activations `[columns 8s..8s + 8]` of both rows. The
/// sums are a vector per pair of weight rows, with the lanes (row 0, activations 0), (0, 1), (1, 0)
/// and (1, 1).
pub(super) struct Matrix;

impl Mac for Matrix {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: this table is listed only where `sdot` exists too.
        unsafe { Dot::dot(acc, a, b) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn step(sums: &mut [int32x4_t; 4], weights: &[int8x16_t; 8], acts: [int8x16_t; 2]) {
        for (s, act) in acts.into_iter().enumerate() {
            for (p, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's processor has the instruction, which touches registers only.
                unsafe {
                    asm!(
                        ".arch_extension i8mm",
                        "smmla {sum:v}.4s, {weights:v}.16b, {act:v}.16b",
                        sum = inout(vreg) *sum,
                        weights = in(vreg) weights[4 * s + p],
                        act = in(vreg) act,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pack(rows: [int8x16_t; 8]) -> [int8x16_t; 8] {
        let pairs: [[int8x16_t; 2]; 4] =
            std::array::from_fn(|p| eights(rows[2 * p], rows[2 * p + 1]));
        std::array::from_fn(|i| pairs[i % 4][i / 4])
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair(rows: [int8x16_t; 2]) -> [int8x16_t; 2] {
        eights(rows[0], rows[1])
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn spread(rows: [float32x4_t; 2]) -> [float32x4_t; 4] {
        let [a, b] = rows;
        [vzip1q_f32(a, a), vzip2q_f32(a, a), vzip1q_f32(b, b), vzip2q_f32(b, b)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn spread_acts(rows: float32x2_t) -> [float32x4_t; 4] {
        [vcombine_f32(rows, rows); 4]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn split(rows: [[float32x4_t; 2]; 2]) -> [float32x4_t; 4] {
        let [[a, b], [c, d]] = rows;
        [vzip1q_f32(a, c), vzip2q_f32(a, c), vzip1q_f32(b, d), vzip2q_f32(b, d)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn join(lanes: [float32x4_t; 4]) -> [[float32x4_t; 2]; 2] {
        let [a, b, c, d] = lanes;
        [[vuzp1q_f32(a, b), vuzp1q_f32(c, d)], [vuzp2q_f32(a, b), vuzp2q_f32(c, d)]]
    }
}

/// The first eight bytes of both vectors, then the last.
#[inline]
#[target_feature(enable = "neon")]
fn eights(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
    [vreinterpretq_s8_s64(vtrn1q_s64(a, b)), vreinterpretq_s8_s64(vtrn2q_s64(a, b))]
}
