//! Q8_0 against many activation rows.
//!
//! Activations are words here, so the weights are widened to words too and multiplied in pairs. Of every
//! four weights the even pair (0, 2) and the odd pair (1, 3) are kept apart, which a shift separates;
//! the panel has, per 32 weights, eight even pairs of 16 rows, then eight odd ones.

use std::arch::x86_64::*;

use super::gemm::{Accumulators, Panel, SIDE, bytes_of};
use super::lanes::{gather_f16, transpose, widen};
use crate::dot::{Out, RoundedRows, Scratch, Weights, picked};

const BYTES: usize = 34;
/// Bytes of 32 weights of 16 rows.
const GROUP: usize = 32 * SIDE * 2;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q8_0(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_rows = out.rows();
    Panel::each(w, |panel| {
        // SAFETY: the panel lies in `w`, whose format this is, and `acts` is as wide.
        unsafe {
            pack(w, &panel, scratch);
            let mut n = 0;
            while n + 6 <= n_rows {
                let rows = std::array::from_fn(|i| picked(index, n + i));
                multiply::<6>(&panel, acts, (rows, n), out, scratch);
                n += 6;
            }
            while n + 3 <= n_rows {
                let rows = std::array::from_fn(|i| picked(index, n + i));
                multiply::<3>(&panel, acts, (rows, n), out, scratch);
                n += 3;
            }
            while n < n_rows {
                multiply::<1>(&panel, acts, ([picked(index, n)], n), out, scratch);
                n += 1;
            }
        }
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack(w: &Weights<'_>, panel: &Panel, scratch: &mut Scratch) {
    let n_blocks = panel.cols / 32;
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        for half in 0..2 {
            let rows = panel.eight(w, side, half);
            for b in 0..n_blocks {
                let at = side * n_blocks + b;
                // SAFETY: whole blocks on one side; on the other `at` counts blocks of 16 rows, of
                // which the buffers hold `PANEL_ROWS / 16 * PANEL_COLS / 32`.
                unsafe {
                    let blocks = rows.map(|row| row.add(b * BYTES));
                    let quants = blocks.map(|block| _mm256_loadu_si256(block.add(2).cast()));
                    let group = weights.add(at * GROUP + 32 * half);
                    for (quad, column) in transpose(&quants).into_iter().enumerate() {
                        let [even, odd] = widen(column);
                        _mm256_storeu_si256(group.add(64 * quad).cast(), even);
                        _mm256_storeu_si256(group.add(64 * (8 + quad)).cast(), odd);
                    }
                    let scale = scales.add(at * 64 + 32 * half).cast();
                    _mm256_storeu_ps(scale, gather_f16(blocks));
                }
            }
        }
    }
}

/// All rows of the panel times `N` activation rows, which lie at `rows` and go to outputs from `n`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const N: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    (rows, n): ([usize; N], usize),
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / 32;
    let wide = rows.map(|row| acts.wide(row)[panel.first_col..].as_ptr().cast::<i32>());
    let act_scales = rows.map(|row| acts.scales(row)[panel.first_col / 32..].as_ptr());
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut acc = Accumulators::<N>::load(panel, side, out, n);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            // SAFETY: `pack` has filled this block; every activation row goes on for the panel's
            // width and has as many scales.
            unsafe {
                let totals = block(weights.add(at * GROUP), wide.map(|act| act.add(16 * b)));
                let d = scales.add(at * 64).cast::<f32>();
                let d = [_mm256_loadu_ps(d), _mm256_loadu_ps(d.add(8))];
                for i in 0..N {
                    let scale = _mm256_set1_ps(*act_scales[i].add(b));
                    for h in 0..2 {
                        acc.add((i, h), totals[i][h], _mm256_mul_ps(d[h], scale), false);
                    }
                }
            }
        }
        acc.store(panel, side, out, n);
    }
}

/// 32 weights of 16 rows times `N` activation rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn block<const N: usize>(weights: *const u8, acts: [*const i32; N]) -> [[__m256i; 2]; N] {
    let mut totals = [[_mm256_setzero_si256(); 2]; N];
    for step in 0..16 {
        // SAFETY: the caller's block of `GROUP` bytes and 16 dwords of each activation row.
        unsafe {
            let low = _mm256_loadu_si256(weights.add(64 * step).cast());
            let high = _mm256_loadu_si256(weights.add(64 * step + 32).cast());
            for (n, totals) in totals.iter_mut().enumerate() {
                let act = _mm256_set1_epi32(acts[n].add(step).read_unaligned());
                totals[0] = _mm256_add_epi32(totals[0], _mm256_madd_epi16(low, act));
                totals[1] = _mm256_add_epi32(totals[1], _mm256_madd_epi16(high, act));
            }
        }
    }
    totals
}
