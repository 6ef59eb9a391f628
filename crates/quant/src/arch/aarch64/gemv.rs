//! One or two activation rows: weights are read once, straight from the stored blocks.
//!
//! A few weight rows go side by side, so that their exact block sums meet in the lanes of one vector
//! before the float accumulation.

use std::arch::aarch64::*;
use std::arch::asm;

use super::formats::{Format, Header};
use super::lanes::sum_each;
use super::mac::Mac;
use super::planes::{self, Planes};
use crate::dot::{Out, RoundedRows, Weights, picked};

/// `N` activation rows with `R` weight rows at a time.
///
/// # Safety
/// The processor must have `M`'s instructions, `F` must be the format of `w`, `acts` must be its own
/// and as wide as `w`, and `out` must have `N` rows.
#[inline(never)]
#[target_feature(enable = "neon")]
pub(super) unsafe fn blocks<F: Format, M: Mac, const N: usize, const R: usize>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
) {
    const { assert!(R == 4 || R == 8, "four rows to a vector, at most two vectors") }
    let acts: [ActRow; N] = std::array::from_fn(|n| ActRow::new::<F>(acts, picked(index, n)));
    for first in (0..w.rows()).step_by(R) {
        // Past the end the last row stands in, and its results are dropped.
        let rows: [*const u8; R] =
            std::array::from_fn(|r| w.row((first + r).min(w.rows() - 1)).as_ptr());
        let mut acc = [[vdupq_n_f32(0.0); 2]; N];
        for b in 0..w.cols() / F::LEN {
            prefetch_next::<R>(w, first, b * R * F::BYTES, F::BYTES);
            // SAFETY: `w` has whole blocks of this format and `acts` as many of its own.
            unsafe {
                let blocks = rows.map(|row| row.add(b * F::BYTES));
                let sums = block_sums::<F, M, N, R>(blocks, &acts, b);
                for half in 0..R / 4 {
                    let [d, dmin] = F::d(std::array::from_fn(|r| blocks[4 * half + r]));
                    for n in 0..N {
                        let (scale, acc) = (*acts[n].scales.add(b), &mut acc[n][half]);
                        let [total, mins] = sums[n].map(|sums| vcvtq_f32_s32(sums[half]));
                        *acc = vfmaq_f32(*acc, total, vmulq_n_f32(d, scale));
                        if F::MINS {
                            *acc = vfmsq_f32(*acc, mins, vmulq_n_f32(dmin, scale));
                        }
                    }
                }
            }
        }
        for (n, acc) in acc.iter().enumerate() {
            store::<R>(acc, out, n, first);
        }
    }
}

/// An activation row: of `codes` and `wide`, one is null.
struct ActRow {
    codes: *const i8,
    wide: *const i16,
    sums: *const i16,
    scales: *const f32,
}

impl ActRow {
    fn new<F: Format>(acts: &RoundedRows, row: usize) -> Self {
        let scales = acts.scales(row).as_ptr();
        if F::WIDE {
            let (codes, sums) = (std::ptr::null(), std::ptr::null());
            Self { codes, wide: acts.wide(row).as_ptr(), sums, scales }
        } else {
            let (codes, sums) = (acts.codes(row).as_ptr(), acts.sums(row).as_ptr());
            Self { codes, wide: std::ptr::null(), sums, scales }
        }
    }

    /// Block `b`.
    ///
    /// # Safety
    /// The row must be in `F`'s own format and have the block.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn block<F: Format>(&self, b: usize) -> ActBlock {
        let zero = vdupq_n_s8(0);
        let (mut wide, mut sums) = ([zero; 4], [zero; 2]);
        // SAFETY: promised by the caller; blocks with minima have 256 codes and 16 sums.
        unsafe {
            if F::WIDE {
                wide = planes::of_codes(self.wide.add(b * F::LEN));
            }
            if F::MINS {
                sums = planes::of_sums(self.sums.add(b * F::LEN / 16));
            }
        }
        ActBlock { codes: self.codes.wrapping_add(b * F::LEN), wide, sums }
    }
}

/// One block of an activation row.
struct ActBlock {
    /// Bytes, where the format wants them.
    codes: *const i8,
    /// Words, where the format wants them.
    wide: Planes,
    /// Sums of the codes, where the format has minima.
    sums: [int8x16_t; 2],
}

impl ActBlock {
    /// # Safety
    /// The block must have bytes, and more than `g` groups of 32.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn group(&self, g: usize) -> [int8x16_t; 2] {
        // SAFETY: promised by the caller.
        [0, 16].map(|i| unsafe { vld1q_s8(self.codes.add(32 * g + i)) })
    }
}

/// Exact sums of one block of `R` rows, and of their minima, for each activation row.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block_sums<F: Format, M: Mac, const N: usize, const R: usize>(
    blocks: [*const u8; R],
    acts: &[ActRow; N],
    b: usize,
) -> [[[int32x4_t; 2]; 2]; N] {
    let zero = vdupq_n_s32(0);
    // SAFETY: the caller's activations have the block.
    let acts: [ActBlock; N] = std::array::from_fn(|n| unsafe { acts[n].block::<F>(b) });
    let (mut totals, mut mins) = ([[zero; R]; N], [[zero; R]; N]);
    for r in 0..R {
        // SAFETY: the caller's block and instructions.
        unsafe {
            let header = F::header(blocks[r]);
            let sums = row_sums::<F, M, N>(blocks[r], &header, &acts);
            for n in 0..N {
                totals[n][r] = sums[n];
                if F::MINS {
                    let [high, low] = acts[n].sums;
                    mins[n][r] = planes::raise(M::dot(zero, header.mins, high));
                    mins[n][r] = M::dot(mins[n][r], header.mins, low);
                }
            }
        }
    }
    let each = |v: &[int32x4_t; R]| {
        let first = sum_each([v[0], v[1], v[2], v[3]]);
        [first, if R == 8 { sum_each(std::array::from_fn(|i| v[R - 4 + i])) } else { first }]
    };
    std::array::from_fn(|n| [each(&totals[n]), if F::MINS { each(&mins[n]) } else { [zero; 2] }])
}

/// Products of one block of one row, times their scales, still to be added over the lanes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn row_sums<F: Format, M: Mac, const N: usize>(
    block: *const u8,
    header: &Header,
    acts: &[ActBlock; N],
) -> [int32x4_t; N] {
    let mut totals = [vdupq_n_s32(0); N];
    // SAFETY: the caller's block, its activations and instructions.
    unsafe {
        if F::LEN == 32 {
            let weights = F::weights::<0>(block, header, 0);
            for (total, acts) in totals.iter_mut().zip(acts) {
                if F::WIDE {
                    let [h0, h1, l0, l1] = acts.wide;
                    *total = planes::raise(dot_group::<M>(*total, weights, [h0, h1]));
                    *total = dot_group::<M>(*total, weights, [l0, l1]);
                } else {
                    *total = dot_group::<M>(*total, weights, acts.group(0));
                }
            }
            return totals;
        }
        for half in 0..F::LEN / 128 {
            let weights = [
                F::weights::<0>(block, header, half),
                F::weights::<1>(block, header, half),
                F::weights::<2>(block, header, half),
                F::weights::<3>(block, header, half),
            ];
            for (total, acts) in totals.iter_mut().zip(acts) {
                *total = add_half::<F, M>(*total, &weights, header, acts, half);
            }
        }
    }
    totals
}

/// Adds the products of half a block of 256 with one activation row, times their scales.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_half<F: Format, M: Mac>(
    mut total: int32x4_t,
    weights: &[[int8x16_t; 2]; 4],
    header: &Header,
    acts: &ActBlock,
    half: usize,
) -> int32x4_t {
    let zero = vdupq_n_s32(0);
    // SAFETY: the caller's activations and instructions.
    unsafe {
        let acts: [[int8x16_t; 2]; 4] = std::array::from_fn(|g| acts.group(4 * half + g));
        let each = |g: usize, i: usize| M::dot(zero, weights[g][i], acts[g][i]);
        match F::SUBS {
            8 => {
                let sums = std::array::from_fn(|g| dot_group::<M>(zero, weights[g], acts[g]));
                total = vmlaq_s32(total, sum_each(sums), header.scales[half]);
            }
            16 => {
                for quad in 0..2 {
                    let sums = std::array::from_fn(|i| each(2 * quad + i / 2, i % 2));
                    total = vmlaq_s32(total, sum_each(sums), header.scales[2 * half + quad]);
                }
            }
            _ => {
                for (weights, acts) in weights.iter().zip(acts) {
                    total = dot_group::<M>(total, *weights, acts);
                }
            }
        }
    }
    total
}

/// Adds 32 products.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot_group<M: Mac>(
    acc: int32x4_t,
    weights: [int8x16_t; 2],
    acts: [int8x16_t; 2],
) -> int32x4_t {
    // SAFETY: the caller's instructions.
    unsafe { M::dot(M::dot(acc, weights[0], acts[0]), weights[1], acts[1]) }
}

/// Asks for what the next `R` rows hold at `offset`, so that all of them are near when their turn
/// comes. Requests past the end do nothing.
#[inline]
fn prefetch_next<const R: usize>(w: &Weights<'_>, first: usize, offset: usize, block_bytes: usize) {
    let next = w.row(first).as_ptr().wrapping_add(R * w.row_bytes() + offset);
    for line in 0..(R * block_bytes).div_ceil(64) {
        let at = next.wrapping_add(64 * line);
        // SAFETY: a hint: the address is never followed in a way that a program can notice.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(readonly, nostack)) };
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store<const R: usize>(acc: &[float32x4_t; 2], out: &mut Out<'_>, n: usize, first: usize) {
    let mut lanes = [0f32; 8];
    // SAFETY: the array has the floats of two vectors.
    unsafe {
        vst1q_f32(lanes.as_mut_ptr(), acc[0]);
        vst1q_f32(lanes.as_mut_ptr().add(4), acc[1]);
    }
    let len = R.min(out.cols() - first);
    out.part(n, first, len).copy_from_slice(&lanes[..len]);
}
