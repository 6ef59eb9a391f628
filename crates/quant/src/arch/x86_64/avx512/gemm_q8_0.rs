//! Q8_0 against many activation rows by half the multiplications.
//!
//! Winograd's identity: with weights `w` and activations `x` in pairs,
//!
//! ```text
//! x0 w0 + x1 w1 = (x0 + w1) (x1 + w0) - x0 x1 - w0 w1
//! ```
//!
//! and the last two products belong to one side each, so that they are worked out once. Everything is an
//! integer and sums wrap, so nothing is lost. This pays on AMD's processors, which multiply on half of their vector
//! units and add on all; on Intel's, 512 bits have two units for both. Weights are kept 128 and activations 4096 above what they are: no sum is negative then, and two words
//! are added by one addition of dwords, which can broadcast from memory.

use std::arch::x86_64::*;

use crate::arch::x86_64::gemm::{Panel, SIDE, Tile, bytes_of};
use crate::arch::x86_64::lanes::gather_f16;
use crate::arch::x86_64::vnni::{self, Sums, fetch, transpose};
use crate::dot::{Out, PANEL_COLS, PANEL_ROWS, RoundedRows, Scratch, Weights};

const BYTES: usize = 34;
/// Distance of the packed weights from what they are.
const ABOVE_W: i32 = 128;
/// Distance of the packed activations from what they are.
const ABOVE_X: i32 = 4096;
/// Bytes of 32 weights of 16 rows.
const GROUP: usize = 32 * SIDE * 2;

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn q8_0(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let tiles = [multiply::<1>, multiply::<4>, multiply::<8>];
    // SAFETY: promised by the caller, and all of these are for this format.
    unsafe { vnni::each_tile((pack, tiles), w, (acts, index), out, scratch) }
}

/// Where in the scales a panel has what weights alone come to, a dword for every row and block.
const OWN: usize = PANEL_ROWS * PANEL_COLS / 32 * 4;
/// Where in the activations is what they alone come to, a dword for every block.
const OWN_ACTS: usize = 8 * PANEL_COLS * 2;

/// Of every four weights of 16 rows the even pair (0, 2) and the odd pair (1, 3), as words: eight even pairs of 32
/// weights, then eight odd ones.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn pack(w: &Weights<'_>, panel: &Panel, scratch: &mut Scratch) {
    let n_blocks = panel.cols / 32;
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let (mut low, mut high) = (panel.eight(w, side, 0), panel.eight(w, side, 1));
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            let mut rows = [_mm512_setzero_si512(); 8];
            // SAFETY: whole blocks on one side; on the other `at` counts blocks of 16 rows, of which the
            // buffers hold `PANEL_ROWS / 16 * PANEL_COLS / 32`.
            unsafe {
                _mm256_storeu_ps(scales.add(at * 64).cast(), gather_f16(low));
                _mm256_storeu_ps(scales.add(at * 64 + 32).cast(), gather_f16(high));
                for r in 0..8 {
                    let upper = _mm256_loadu_si256(high[r].add(2).cast());
                    let lower = _mm256_loadu_si256(low[r].add(2).cast());
                    rows[r] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lower), upper);
                    (low[r], high[r]) = (low[r].wrapping_add(BYTES), high[r].wrapping_add(BYTES));
                }
                let own = pack_columns(&transpose(&rows), weights.add(at * GROUP));
                _mm512_storeu_si512(scales.add(OWN + at * 64).cast(), own);
            }
        }
    }
}

/// Writes 32 weights of 16 rows, four of each row to a column. What is left of their products with activations
/// when the weights' own part is taken out: `-sum of w0 w1` as packed, less the activations' distance.
///
/// # Safety
/// There must be room for [`GROUP`] bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn pack_columns(columns: &[__m512i; 8], group: *mut u8) -> __m512i {
    let above = _mm512_set1_epi16(ABOVE_X as i16);
    let mut own = _mm512_setzero_si512();
    for (quad, column) in columns.iter().enumerate() {
        let column = _mm512_xor_si512(*column, _mm512_set1_epi8(ABOVE_W as u8 as i8));
        let even = _mm512_and_si512(column, _mm512_set1_epi16(0xFF));
        let odd = _mm512_srli_epi16::<8>(column);
        // SAFETY: promised by the caller.
        unsafe {
            _mm512_storeu_si512(group.add(64 * quad).cast(), even);
            _mm512_storeu_si512(group.add(64 * (8 + quad)).cast(), odd);
        }
        // `(w0 + a) (w1 + a) = w0 w1 + a (w0 + w1) + a a`.
        let (even, odd) = (_mm512_add_epi16(even, above), _mm512_add_epi16(odd, above));
        own = _mm512_dpwssd_epi32(own, even, odd);
    }
    // 16 pairs, and 32 weights that lie `ABOVE_W` too high.
    let constant = 16 * ABOVE_X * ABOVE_X + 32 * ABOVE_W * ABOVE_X;
    _mm512_sub_epi32(_mm512_set1_epi32(constant), own)
}

/// All rows of a panel times `N` activation rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply<const N: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    tile: Tile<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / 32;
    let rows = tile.rows::<N>();
    let near = bytes_of(&mut scratch.acts);
    let row_at = |row| acts.wide(row)[panel.first_col..].as_ptr();
    let next = tile.next_rows::<N>().map(|row| row_at(row).cast());
    // SAFETY: the rows go on for the panel's width.
    unsafe { gather(rows.map(row_at), n_blocks, near) };
    let act_scales = rows.map(|row| acts.scales(row)[panel.first_col / 32..].as_ptr());
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut sums = Sums::<N>::load(panel, side, out, tile.n);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            if side == 0 {
                fetch(next, 64 * b..64 * (b + 1));
            }
            // SAFETY: `pack` has filled this block and `gather` its activations, which have as many
            // scales.
            unsafe {
                let own = _mm512_loadu_si512(scales.add(OWN + at * 64).cast());
                let totals = block::<N>(weights.add(at * GROUP), own, near, b);
                let d = _mm512_loadu_ps(scales.add(at * 64).cast());
                for n in 0..N {
                    sums.add(n, totals[n], d, *act_scales[n].add(b));
                }
            }
        }
        sums.store(panel, side, out, tile.n);
    }
}

/// Exact sums of one block of 16 rows with block `b` of `N` activation rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn block<const N: usize>(
    weights: *const u8,
    own: __m512i,
    near: *const u8,
    b: usize,
) -> [__m512i; N] {
    let mut totals = [own; N];
    // SAFETY: the caller's block and activations.
    unsafe {
        let (acts, own) = (near.add(64 * N * b).cast::<i32>(), near.add(OWN_ACTS).cast::<i32>());
        for (n, total) in totals.iter_mut().enumerate() {
            *total = _mm512_add_epi32(*total, _mm512_set1_epi32(*own.add(N * b + n)));
        }
        for step in 0..8 {
            let even = _mm512_loadu_si512(weights.add(64 * step).cast());
            let odd = _mm512_loadu_si512(weights.add(64 * (8 + step)).cast());
            for (n, total) in totals.iter_mut().enumerate() {
                let first = _mm512_set1_epi32(*acts.add(16 * n + step));
                let second = _mm512_set1_epi32(*acts.add(16 * n + 8 + step));
                let (a, b) = (_mm512_add_epi32(odd, first), _mm512_add_epi32(even, second));
                *total = _mm512_dpwssd_epi32(*total, a, b);
            }
        }
    }
    totals
}

/// Copies `n_blocks` blocks of every row, one of each in turn, [`ABOVE_X`] above what they are, and works out what
/// is left of products when the activations' own part is taken out.
///
/// # Safety
/// The rows must have so many blocks, of which the activations' buffer has room for `N * PANEL_COLS / 32`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn gather<const N: usize>(rows: [*const i16; N], n_blocks: usize, near: *mut u8) {
    let (above, more) = (_mm256_set1_epi16(ABOVE_X as i16), _mm256_set1_epi16(ABOVE_W as i16));
    for b in 0..n_blocks {
        for (n, row) in rows.into_iter().enumerate() {
            // SAFETY: promised by the caller.
            unsafe {
                let even = _mm256_loadu_si256(row.add(32 * b).cast());
                let odd = _mm256_loadu_si256(row.add(32 * b + 16).cast());
                let (even, odd) = (_mm256_add_epi16(even, above), _mm256_add_epi16(odd, above));
                let to = near.add(64 * (N * b + n));
                _mm256_storeu_si256(to.cast(), even);
                _mm256_storeu_si256(to.add(32).cast(), odd);
                // `(x0 + a) (x1 + a) = x0 x1 + a (x0 + x1) + a a`.
                let (even, odd) = (_mm256_add_epi16(even, more), _mm256_add_epi16(odd, more));
                let own = sum(_mm256_madd_epi16(even, odd));
                let own = 16 * ABOVE_W * ABOVE_W - own;
                near.add(OWN_ACTS).cast::<i32>().add(N * b + n).write(own);
            }
        }
    }
}

/// The sum of eight dwords.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_00_01>(v));
    _mm_cvtsi128_si32(v)
}
