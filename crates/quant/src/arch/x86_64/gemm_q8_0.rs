//! Q8_0 against many activation rows.
//!
//! Activations are words here, so the weights are widened to words too and multiplied in pairs. Of every
//! four weights the even pair (0, 2) and the odd pair (1, 3) are kept apart, which a shift separates;
//! the panel has, per 32 weights, eight even pairs of 16 rows, then eight odd ones.

use std::arch::x86_64::*;

use super::gemm::{Accumulators, Panel, SIDE, Tile, bytes_of, for_tiles, gather};
use super::lanes::{gather_f16, transpose, widen};
use crate::dot::{Out, RoundedRows, Scratch, Weights};

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
            for_tiles(n_rows, [6, 3, 1], |n, len| {
                let tile = Tile { index, n, n_rows };
                match len {
                    6 => multiply::<6>(&panel, acts, tile, out, scratch),
                    3 => multiply::<3>(&panel, acts, tile, out, scratch),
                    _ => multiply::<1>(&panel, acts, tile, out, scratch),
                }
            });
        }
    });
}

#[inline(never)]
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
                    let (mut blocks, mut quants) = (rows, [_mm256_setzero_si256(); 8]);
                    for (block, quants) in blocks.iter_mut().zip(&mut quants) {
                        *block = block.add(b * BYTES);
                        *quants = _mm256_loadu_si256(block.add(2).cast());
                    }
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

/// All rows of the panel times `N` activation rows.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const N: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    tile: Tile<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / 32;
    let (rows, next) = (tile.rows::<N>(), tile.next_rows::<N>());
    let row_at = |row| acts.wide(row)[panel.first_col..].as_ptr().cast::<u8>();
    let next = next.map(row_at);
    let near = bytes_of(&mut scratch.acts);
    // SAFETY: the rows go on for the panel's width, two bytes a code.
    unsafe { gather(rows.map(row_at), 2 * panel.cols, near) };
    let act_scales = rows.map(|row| acts.scales(row)[panel.first_col / 32..].as_ptr());
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut acc = Accumulators::<N>::load(panel, side, out, tile.n);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            if side == 0 {
                // A line of every row that comes next for each block of this one.
                for row in next {
                    _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(64 * b).cast());
                }
            }
            // SAFETY: `pack` has filled this block and `gather` its activations, which have as many
            // scales.
            unsafe {
                let totals = block::<N>(weights.add(at * GROUP), near.add(64 * N * b).cast());
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
        acc.store(panel, side, out, tile.n);
    }
}

/// 32 weights of 16 rows times `N` activation rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn block<const N: usize>(weights: *const u8, acts: *const i32) -> [[__m256i; 2]; N] {
    let mut totals = [[_mm256_setzero_si256(); 2]; N];
    for step in 0..16 {
        // SAFETY: the caller's block of `GROUP` bytes and 16 dwords of each activation row.
        unsafe {
            let low = _mm256_loadu_si256(weights.add(64 * step).cast());
            let high = _mm256_loadu_si256(weights.add(64 * step + 32).cast());
            for (n, totals) in totals.iter_mut().enumerate() {
                let act = _mm256_set1_epi32(*acts.add(16 * n + step));
                totals[0] = _mm256_add_epi32(totals[0], _mm256_madd_epi16(low, act));
                totals[1] = _mm256_add_epi32(totals[1], _mm256_madd_epi16(high, act));
            }
        }
    }
    totals
}
