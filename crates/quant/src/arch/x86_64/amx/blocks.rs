//! Formats whose activations are bytes.

use std::arch::x86_64::*;

use super::unit::{Product, ROWS, Shape, Unit};
use super::{Sums, Tile, Totals};
use crate::arch::x86_64::formats::Format;
use crate::arch::x86_64::gemm::{self, Panel, SIDE, bytes_of};
use crate::dot::{Out, RoundedRows, Scratch, Weights};

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn rows<U: Unit, F: Format>(
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
            gemm::pack::<F>(w, &panel, scratch);
            if F::OFFSET != 0 {
                finish::<F>(&panel, scratch);
            }
        }
        // SAFETY: as above; the caller has the unit.
        Tile::each(n_rows, index, |tile| unsafe {
            multiply::<U, F>(&panel, acts, tile, out, scratch);
        });
    });
}

/// Bytes of a row that are multiplied before the sums leave the tiles for their scale.
const fn run<F: Format>() -> usize {
    match F::LEN {
        256 if F::FOLDED => 256,
        256 if !F::SCALES_OF_32 => 16,
        _ => 32,
    }
}

/// Makes a packed panel's bytes signed: takes their offset away.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn finish<F: Format>(panel: &Panel, scratch: &mut Scratch) {
    let lines = panel.cols / F::LEN * panel.rows.div_ceil(SIDE) * F::LEN / 4;
    let weights = bytes_of(&mut scratch.panel).cast::<__m512i>();
    let offset = _mm512_set1_epi8(F::OFFSET as i8);
    for line in 0..lines {
        // SAFETY: `pack` has filled these blocks, four weights of 16 rows to a line.
        unsafe {
            let at = weights.add(line);
            _mm512_storeu_si512(at, _mm512_sub_epi8(_mm512_loadu_si512(at), offset));
        }
    }
}

/// All rows of the panel times one tile of activation rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn multiply<U: Unit, F: Format>(
    panel: &Panel,
    acts: &RoundedRows,
    tile: &Tile,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / F::LEN;
    let near = bytes_of(&mut scratch.acts);
    for (n, &row) in tile.rows[..tile.len].iter().enumerate() {
        let codes = &acts.codes(row)[panel.first_col..][..panel.cols];
        for (i, codes) in codes.chunks(64).enumerate() {
            // SAFETY: the buffer has 64 bytes of 16 rows for all columns of the widest panel.
            unsafe {
                let to = near.add((i * ROWS + n) * 64);
                std::ptr::copy_nonoverlapping(codes.as_ptr().cast(), to, codes.len());
            }
        }
    }
    let (weights, meta) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    let shape = Shape { rows: tile.len, depth: run::<F>().min(64) };
    // SAFETY: the caller has the unit.
    unsafe { U::shape(shape) };
    let mut totals = [Totals::new(), Totals::new()];
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut sums = Sums::load(panel, side, out, tile);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            // SAFETY: `pack` and `finish` have filled this block; activations are above.
            unsafe {
                let meta = meta.add(at * gemm::meta_bytes::<F>());
                let weights = weights.add(at * F::LEN * SIDE);
                block::<U, F>(weights, meta, (near, b * F::LEN), shape, &mut totals);
                let d_at = meta.add(gemm::meta_bytes::<F>() - 128).cast::<f32>();
                let (d, dmin) = (_mm512_loadu_ps(d_at), _mm512_loadu_ps(d_at.add(16)));
                for (n, &row) in tile.rows[..tile.len].iter().enumerate() {
                    let scale = acts.scales(row)[panel.first_col / F::LEN + b];
                    sums.add::<false>(n, totals[0].row(n), d, scale);
                    if F::MINS {
                        let first = (panel.first_col + b * F::LEN) / 16;
                        let total = mins::<F>(meta, &acts.sums(row)[first..][..16]);
                        sums.add::<true>(n, total, dmin, scale);
                    }
                }
            }
        }
        sums.store(panel, side, out, tile);
    }
}

/// Exact sums of one block of 16 rows with a tile of activation rows, which lie in `near` from column
/// `first` on: to the first of `totals`, the other being for what has no scale yet.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn block<U: Unit, F: Format>(
    weights: *const u8,
    meta: *const u8,
    (near, first): (*const u8, usize),
    shape: Shape,
    [totals, sums]: &mut [Totals; 2],
) {
    let count = run::<F>().div_ceil(64);
    for (i, start) in (0..F::LEN).step_by(run::<F>()).enumerate() {
        let col = first + start;
        // SAFETY: the caller's block and activations, of which these are a run.
        unsafe {
            let left = near.add(col / 64 * 64 * ROWS + col % 64);
            let right = weights.add(start * SIDE);
            let product = Product { left, stride: 64, step: 64 * ROWS, right, count };
            if F::LEN == 32 || F::FOLDED {
                U::product(shape, product, totals.as_mut_ptr());
                continue;
            }
            U::product(shape, product, sums.as_mut_ptr());
            // The scale is there twice, as a pair of words.
            let scale = _mm512_srai_epi32::<16>(_mm512_loadu_si512(meta.add(64 * i).cast()));
            for n in 0..shape.rows {
                let mut total = _mm512_mullo_epi32(sums.row(n), scale);
                if i > 0 {
                    total = _mm512_add_epi32(total, totals.row(n));
                }
                _mm512_store_si512(totals.as_mut_ptr().add(SIDE * n).cast(), total);
            }
        }
    }
}

/// Exact sums of the minima of one block of 16 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn mins<F: Format>(meta: *const u8, sums: &[i16]) -> __m512i {
    let mut total = _mm512_setzero_si512();
    for (pair, sums) in sums.as_chunks::<2>().0.iter().enumerate() {
        let sums = i32::from(sums[0] as u16) | i32::from(sums[1]) << 16;
        // SAFETY: the caller's block has eight pairs of minima.
        let mins = unsafe { _mm512_loadu_si512(meta.add(gemm::mins_at::<F>() + 64 * pair).cast()) };
        total = _mm512_dpwssd_epi32(total, mins, _mm512_set1_epi32(sums));
    }
    total
}
