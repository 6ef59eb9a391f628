//! Q8_0: activations of 13 bits are two planes of signed bytes, `32 * high + low`.

use std::arch::x86_64::*;

use super::unit::{Product, ROWS, Shape, Unit};
use super::{Sums, Tile, Totals};
use crate::arch::x86_64::gemm::{Panel, SIDE, bytes_of};
use crate::arch::x86_64::lanes::{gather_f16, transpose};
use crate::dot::{Out, RoundedRows, Scratch, Weights};

const BYTES: usize = 34;
/// Bytes of 32 weights of 16 rows. Tiles of the right operand lie a kilobyte apart, but these are used one
/// by one.
const GROUP: usize = 32 * SIDE;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn rows<U: Unit>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_rows = out.rows();
    Panel::each(w, |panel| {
        // SAFETY: the panel lies in `w`, whose format this is, and `acts` is as wide.
        unsafe { pack(w, &panel, scratch) };
        // SAFETY: as above; the caller has the unit.
        Tile::each(n_rows, index, |tile| unsafe {
            multiply::<U>(&panel, acts, tile, out, scratch);
        });
    });
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn pack(w: &Weights<'_>, panel: &Panel, scratch: &mut Scratch) {
    let n_blocks = panel.cols / 32;
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for (side, half) in (0..panel.rows.div_ceil(SIDE)).flat_map(|side| [(side, 0), (side, 1)]) {
        let rows = panel.eight(w, side, half);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            // SAFETY: whole blocks on one side; on the other `at` counts blocks of 16 rows, of which the
            // buffers hold `PANEL_ROWS / 16 * PANEL_COLS / 32`.
            unsafe {
                let blocks = rows.map(|row| row.add(b * BYTES));
                let quants = blocks.map(|block| _mm256_loadu_si256(block.add(2).cast()));
                let group = weights.add(at * GROUP + 32 * half);
                for (quad, column) in transpose(&quants).into_iter().enumerate() {
                    _mm256_storeu_si256(group.add(64 * quad).cast(), column);
                }
                let scale = scales.add(at * 64 + 32 * half).cast();
                _mm256_storeu_ps(scale, gather_f16(blocks));
            }
        }
    }
}

/// All rows of the panel times one tile of activation rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn multiply<U: Unit>(
    panel: &Panel,
    acts: &RoundedRows,
    tile: &Tile,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / 32;
    let near = bytes_of(&mut scratch.acts);
    for (n, &row) in tile.rows[..tile.len].iter().enumerate() {
        let codes = &acts.wide(row)[panel.first_col..][..panel.cols];
        for (b, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            // SAFETY: the buffer has two planes of 16 rows for every block of the widest panel.
            unsafe { split(codes, near.add(planes(b) + 32 * n)) };
        }
    }
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    let shape = Shape { rows: tile.len, depth: 32 };
    // SAFETY: the caller has the unit.
    unsafe { U::shape(shape) };
    let (mut high, mut low) = (Totals::new(), Totals::new());
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut sums = Sums::load(panel, side, out, tile);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            // SAFETY: `pack` has filled this block, and the planes are above.
            let d = unsafe {
                let right = weights.add(at * GROUP);
                let left = near.add(planes(b));
                let product = Product { left, stride: 32, step: 0, right, count: 1 };
                U::product(shape, product, high.as_mut_ptr());
                let left = left.add(32 * ROWS);
                U::product(shape, Product { left, ..product }, low.as_mut_ptr());
                _mm512_loadu_ps(scales.add(at * 64).cast())
            };
            for (n, &row) in tile.rows[..tile.len].iter().enumerate() {
                let total = _mm512_add_epi32(_mm512_slli_epi32::<5>(high.row(n)), low.row(n));
                sums.add::<false>(n, total, d, acts.scales(row)[panel.first_col / 32 + b]);
            }
        }
        sums.store(panel, side, out, tile);
    }
}

/// Where the planes of block `b` lie: 16 rows of the high one, then of the low one.
const fn planes(b: usize) -> usize {
    b * 2 * 32 * ROWS
}

/// Both planes of 32 codes, which lie even ones first: the high bytes to `at`, the low ones 16 rows later.
///
/// # Safety
/// There must be room.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn split(codes: &[i16; 32], at: *mut u8) {
    // SAFETY: 32 words are two vectors; the caller has room for two of 32 bytes.
    unsafe {
        let evens = _mm256_loadu_si256(codes.as_ptr().cast());
        let odds = _mm256_loadu_si256(codes.as_ptr().add(16).cast());
        let byte = _mm256_set1_epi16(0xFF);
        let high = _mm256_and_si256(_mm256_srai_epi16::<5>(evens), byte);
        let odd = _mm256_slli_epi16::<8>(_mm256_srai_epi16::<5>(odds));
        _mm256_storeu_si256(at.cast(), _mm256_or_si256(high, odd));
        let five = _mm256_set1_epi16(31);
        let low = _mm256_and_si256(evens, five);
        let odd = _mm256_slli_epi16::<8>(_mm256_and_si256(odds, five));
        _mm256_storeu_si256(at.add(32 * ROWS).cast(), _mm256_or_si256(low, odd));
    }
}
