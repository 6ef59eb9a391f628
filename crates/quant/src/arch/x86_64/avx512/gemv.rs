//! One or two activation rows: weights are read once, straight from the stored blocks.
//!
//! Sixteen pairs of row and block are worked on together, so that their exact block sums meet in the lanes
//! of one vector before the float accumulation.

use std::arch::x86_64::*;
use std::ops::Range;

use super::lanes::from_lane;
use crate::dot::{Line, Out, RoundedRows, Scratch, Weights, picked};

/// Rows side by side.
pub(super) const ROWS: usize = 8;
/// Blocks of each row that are worked on together.
pub(super) const BLOCKS: usize = 16 / ROWS;

/// Bytes that are fetched ahead at least, but of the rows of a call a quarter at most: what lies behind them may be
/// nobody's.
const AHEAD: usize = 32 << 10;

/// Places of 16 stored blocks: [`ROWS`] rows of one block, then of the next.
pub(super) struct Places<'a> {
    rows: &'a [*const u8; ROWS],
    /// Distance of each block from the start of its row.
    skip: [usize; BLOCKS],
}

impl Places<'_> {
    /// Place `i`. Computed each time: a list of all 16 would be read from memory before it is written.
    #[inline]
    pub(super) fn at(&self, i: usize) -> *const u8 {
        self.rows[i % ROWS].wrapping_add(self.skip[i / ROWS])
    }
}

/// What 16 pairs of row and block come to, a lane each.
pub(super) struct Sums {
    pub(super) total: __m512i,
    pub(super) d: __m512,
    /// Minima and their scale, where the format has some.
    pub(super) mins: Option<(__m512i, __m512)>,
}

/// The activations that 16 pairs of row and block meet.
pub(super) struct Near<'a> {
    pub(super) acts: &'a RoundedRows,
    /// Which row of them.
    pub(super) row: usize,
    /// Which blocks of it, one for every [`ROWS`] places.
    pub(super) at: [usize; BLOCKS],
    /// What [`OneRow::arrange`] has made of these.
    pub(super) lines: &'a [Line],
}

/// A format that is multiplied straight from its stored blocks.
pub(super) trait OneRow {
    /// Weights in a block.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Lines of every [`BLOCKS`] activation blocks, arranged as the format likes them.
    const LINES: usize = 0;

    /// Arranges the blocks `at[..]` of activation row `row`.
    ///
    /// # Safety
    /// The instructions of this module must be there.
    unsafe fn arrange(_acts: &RoundedRows, _row: usize, _at: [usize; BLOCKS], _lines: &mut [Line]) {
    }

    /// Exact sums of 16 blocks.
    ///
    /// # Safety
    /// Every place must lead to a block of this format, and `near` to as wide activations.
    unsafe fn sums(places: &Places<'_>, near: &Near<'_>) -> Sums;
}

/// Whether the arranged activations of `n` rows of `cols` find room.
pub(super) fn fits<F: OneRow>(cols: usize, n: usize, scratch: &Scratch) -> bool {
    n * steps::<F>(cols) * F::LINES <= scratch.panel.len()
}

/// Times that [`BLOCKS`] blocks are taken from each row of `cols` weights.
fn steps<F: OneRow>(cols: usize) -> usize {
    (cols / F::LEN).div_ceil(BLOCKS)
}

/// All weight rows times the activation rows in use. Never inlined, so that a profile tells formats apart.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn rows<F: OneRow>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let (n_blocks, steps) = (w.cols() / F::LEN, steps::<F>(w.cols()));
    // Past the end the last block stands in, and its results are dropped.
    let blocks = |step: usize| {
        let mut at = [step * BLOCKS; BLOCKS];
        for (j, at) in at.iter_mut().enumerate() {
            *at = (*at + j).min(n_blocks - 1);
        }
        at
    };
    if F::LINES > 0 {
        for (i, lines) in
            scratch.panel.chunks_exact_mut(F::LINES).take(out.rows() * steps).enumerate()
        {
            // SAFETY: this function has the instructions.
            unsafe { F::arrange(acts, picked(index, i / steps), blocks(i % steps), lines) };
        }
    }
    for first in (0..w.rows()).step_by(ROWS) {
        // So does the last row.
        let mut rows = [w.row(first).as_ptr(); ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = w.row((first + r).min(w.rows() - 1)).as_ptr();
        }
        for n in 0..out.rows() {
            let row = picked(index, n);
            let scales = acts.scales(row);
            let mut acc = _mm512_setzero_ps();
            for step in 0..steps {
                let b = step * BLOCKS;
                prefetch_next(w, first, b * F::BYTES..(b + BLOCKS) * F::BYTES);
                let at = blocks(step);
                let places = Places { rows: &rows, skip: at.map(|b| b * F::BYTES) };
                let lines = &scratch.panel[(n * steps + step) * F::LINES..][..F::LINES];
                let near = Near { acts, row, at, lines };
                // SAFETY: `w` has `n_blocks` blocks of this format in every row, `acts` as many.
                let sums = unsafe { F::sums(&places, &near) };
                let total = _mm512_cvtepi32_ps(sums.total);
                for (j, at) in at.into_iter().enumerate().take(n_blocks - b) {
                    let scale = _mm512_set1_ps(scales[at]);
                    let d = _mm512_mul_ps(from_lane(sums.d, j * ROWS), scale);
                    acc = _mm512_fmadd_ps(from_lane(total, j * ROWS), d, acc);
                    if let Some((mins, dmin)) = sums.mins {
                        let mins = from_lane(_mm512_cvtepi32_ps(mins), j * ROWS);
                        let dmin = _mm512_mul_ps(from_lane(dmin, j * ROWS), scale);
                        acc = _mm512_fnmadd_ps(mins, dmin, acc);
                    }
                }
            }
            store(acc, out, n, first);
        }
    }
}

/// Asks for the lines that begin in `columns` of rows further on (in bytes), so that all of them are near when their
/// turn comes: of all rows in turn, since memory answers several streams faster than one. Requests past the end do
/// nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn prefetch_next(w: &Weights<'_>, first: usize, columns: Range<usize>) {
    let next = w.row(first).as_ptr().wrapping_add(distance(w));
    for line in columns.start.div_ceil(64)..columns.end.div_ceil(64) {
        for row in 0..ROWS {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(row * w.row_bytes() + 64 * line).cast());
        }
    }
}

/// How far rows are asked for ahead: whole groups of them, of [`AHEAD`] bytes at least.
#[inline]
fn distance(w: &Weights<'_>) -> usize {
    let (group, all) = ((ROWS * w.row_bytes()).max(1), w.rows() * w.row_bytes());
    group * AHEAD.min(all / 4).div_ceil(group).max(1)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn store(acc: __m512, out: &mut Out<'_>, n: usize, first: usize) {
    let mut lanes = [0f32; 16];
    // SAFETY: the array has the vector's 16 floats.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), acc) };
    let len = ROWS.min(out.cols() - first);
    out.part(n, first, len).copy_from_slice(&lanes[..len]);
}
