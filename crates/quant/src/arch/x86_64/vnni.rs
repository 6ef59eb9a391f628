//! AVX-512 with VNNI, for many activation rows: the panels are those of AVX2, of which one vector now
//! holds 16 rows, and products are summed in int32 by the multiplication itself.

use std::arch::x86_64::*;

use super::formats::Format;
use super::gemm::{self, Panel, SIDE, Tile, bytes_of, gather};
use super::lanes::{add_products_with, gather_f16};
use crate::dot::{Out, PANEL_COLS, RoundedRows, Scratch, Weights};

/// Cuts `n_rows` activation rows into tiles of eight, four and one: calls `visit(first, length)`. Sums and
/// accumulators of eight take half the registers.
///
/// Products of up to four rows wait for each other's sums and take the same time, those of eight take twice
/// as long, so a tile may be larger than its rows: the last row stands in for those past the end.
fn for_tiles(n_rows: usize, mut visit: impl FnMut(usize, usize)) {
    let mut n = 0;
    while n < n_rows {
        let len = match n_rows - n {
            1 => 1,
            2..=4 => 4,
            _ => 8,
        };
        visit(n, len);
        n += len;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn q8_0(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let tiles = [multiply_q8_0::<1>, multiply_q8_0::<4>, multiply_q8_0::<8>];
    // SAFETY: promised by the caller, and all of these are for this format.
    unsafe { each_tile((pack_q8_0, tiles), w, (acts, index), out, scratch) }
}

/// Unpacks a panel: weights, then what belongs to their blocks.
pub(super) type Pack = unsafe fn(&Weights<'_>, &Panel, &mut Scratch);
/// All rows of a panel times those of a tile.
pub(super) type Multiply = unsafe fn(&Panel, &RoundedRows, Tile<'_>, &mut Out<'_>, &mut Scratch);

/// Unpacks each panel and multiplies it with tiles of one, four and eight rows. While it is multiplied, the
/// next is fetched.
///
/// # Safety
/// `pack` and the products must be made for the format of `w`, and `acts` as wide.
pub(super) unsafe fn each_tile(
    (pack, [one, four, eight]): (Pack, [Multiply; 3]),
    w: &Weights<'_>,
    (acts, index): (&RoundedRows, Option<&[u32]>),
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_rows = out.rows();
    Panel::each(w, |panel| {
        // SAFETY: the panel lies in `w`; the rest is promised by the caller.
        unsafe { pack(w, &panel, scratch) };
        for_tiles(n_rows, |n, len| {
            panel.fetch_next(w, n..(n + len).min(n_rows), n_rows);
            let multiply = match len {
                8 => eight,
                4 => four,
                _ => one,
            };
            // SAFETY: the panel is unpacked; the rest is promised by the caller.
            unsafe { multiply(&panel, acts, Tile { index, n, n_rows }, out, scratch) };
        });
    });
}

/// Any format but Q8_0. Where `TURNED`, of every four groups of eight weights `pack` has all first ones together,
/// then all second ones, and so on.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn blocks<F: Format, const TURNED: bool>(
    pack: Pack,
    w: &Weights<'_>,
    (acts, index): (&RoundedRows, Option<&[u32]>),
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let tiles = [multiply::<F, TURNED, 1>, multiply::<F, TURNED, 4>, multiply::<F, TURNED, 8>];
    // SAFETY: promised by the caller, and all of these are for this format.
    unsafe { each_tile((pack, tiles), w, (acts, index), out, scratch) }
}

/// As [`gather`], for whole lines: every four groups of eight bytes are turned into eight of four.
///
/// # Safety
/// There must be so many bytes on both sides.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn gather_turned<const N: usize>(rows: [*const u8; N], bytes: usize, near: *mut u8) {
    let pairs =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    // Words of two groups, then of the other two.
    let places: [u16; 32] = std::array::from_fn(|i| (i / 16 * 16 + i % 2 * 8 + i % 16 / 2) as u16);
    // SAFETY: 32 words are the vector's; the bytes are the caller's.
    unsafe {
        let fours = _mm512_loadu_si512(places.as_ptr().cast());
        for at in (0..bytes).step_by(64) {
            for (i, row) in rows.into_iter().enumerate() {
                let line = _mm512_loadu_si512(row.add(at).cast());
                let line = _mm512_permutexvar_epi16(fours, _mm512_shuffle_epi8(line, pairs));
                _mm512_storeu_si512(near.add(at * N + 64 * i).cast(), line);
            }
        }
    }
}

/// As [`super::gemm_q8_0::pack`], with twice as wide vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn pack_q8_0(w: &Weights<'_>, panel: &Panel, scratch: &mut Scratch) {
    const BYTES: usize = 34;
    let n_blocks = panel.cols / 32;
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let (mut low, mut high) = (panel.eight(w, side, 0), panel.eight(w, side, 1));
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            let mut rows = [_mm512_setzero_si512(); 8];
            panel.fetch_side(w, side, b * SIDE * BYTES..(b + 1) * SIDE * BYTES);
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
                let group = weights.add(at * 1024);
                for (quad, column) in transpose(&rows).into_iter().enumerate() {
                    let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(column));
                    _mm512_storeu_si512(group.add(64 * quad).cast(), even);
                    let odd = _mm512_srai_epi16::<8>(column);
                    _mm512_storeu_si512(group.add(64 * (8 + quad)).cast(), odd);
                }
            }
        }
    }
}

/// The transpose of 8 rows of 8 dwords in both halves of 512 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) fn transpose(r: &[__m512i; 8]) -> [__m512i; 8] {
    let mut pairs = *r;
    for i in 0..4 {
        pairs[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut quads = pairs;
    for half in 0..2 {
        for i in 0..2 {
            let (a, b) = (pairs[4 * half + i], pairs[4 * half + 2 + i]);
            quads[4 * half + 2 * i] = _mm512_unpacklo_epi64(a, b);
            quads[4 * half + 2 * i + 1] = _mm512_unpackhi_epi64(a, b);
        }
    }
    // Lanes of 64 bits: the first 128 bits of both vectors' halves, then the second ones.
    let first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    let mut columns = quads;
    for i in 0..4 {
        columns[i] = _mm512_permutex2var_epi64(quads[i], first, quads[4 + i]);
        columns[4 + i] = _mm512_permutex2var_epi64(quads[i], second, quads[4 + i]);
    }
    columns
}

/// All rows of a Q8_0 panel times `N` activation rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply_q8_0<const N: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    tile: Tile<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / 32;
    let rows = tile.rows::<N>();
    let near = bytes_of(&mut scratch.acts);
    let row_at = |row| acts.wide(row)[panel.first_col..].as_ptr().cast::<u8>();
    let next = tile.next_rows::<N>().map(row_at);
    // SAFETY: the rows go on for the panel's width, two bytes a code.
    unsafe { gather(rows.map(row_at), 2 * panel.cols, near) };
    let act_scales = rows.map(|row| acts.scales(row)[panel.first_col / 32..].as_ptr());
    let (weights, scales) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut sums = Sums::<N>::load(panel, side, out, tile.n);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            if side == 0 {
                fetch(next, 64 * b..64 * (b + 1));
            }
            let mut totals = [_mm512_setzero_si512(); N];
            // SAFETY: `pack` has filled this block and `gather` its activations, which have as many
            // scales.
            unsafe {
                let acts = near.add(64 * N * b).cast::<i32>();
                for step in 0..16 {
                    let pairs = _mm512_loadu_si512(weights.add(at * 1024 + 64 * step).cast());
                    for (n, total) in totals.iter_mut().enumerate() {
                        let act = _mm512_set1_epi32(*acts.add(16 * n + step));
                        *total = _mm512_dpwssd_epi32(*total, pairs, act);
                    }
                }
                let d = _mm512_loadu_ps(scales.add(at * 64).cast());
                for n in 0..N {
                    sums.add(n, totals[n], d, *act_scales[n].add(b));
                }
            }
        }
        sums.store(panel, side, out, tile.n);
    }
}

/// All rows of a panel times `N` activation rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply<F: Format, const TURNED: bool, const N: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    tile: Tile<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / F::LEN;
    let rows = tile.rows::<N>();
    let near = bytes_of(&mut scratch.acts);
    let row_at = |row| acts.codes(row)[panel.first_col..].as_ptr().cast::<u8>();
    let next = tile.next_rows::<N>().map(row_at);
    // SAFETY: the rows go on for the panel's width.
    unsafe {
        if TURNED {
            gather_turned(rows.map(row_at), panel.cols, near);
        } else {
            gather(rows.map(row_at), panel.cols, near);
        }
    }
    let act_scales = rows.map(|row| acts.scales(row)[panel.first_col / F::LEN..].as_ptr());
    let act_sums = rows.map(|row| acts.sums(row)[panel.first_col / 16..].as_ptr());
    // SAFETY: the codes take a quarter of the buffer, corrections for every 16 of them as much again.
    let corrections = unsafe { near.add(8 * PANEL_COLS).cast::<i32>() };
    if F::OFFSET != 0 {
        for (n, sums) in act_sums.iter().enumerate() {
            // SAFETY: the row has a sum for every 16 codes of the panel's width.
            unsafe { correct::<F>(*sums, panel.cols, corrections.add(n * RUNS)) };
        }
    }
    let (weights, meta) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut sums = Sums::<N>::load(panel, side, out, tile.n);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            if side == 0 {
                fetch(next, b * F::LEN..(b + 1) * F::LEN);
            }
            // SAFETY: `pack` has filled this block; its activations have as many scales and a sum per
            // 16 codes.
            unsafe {
                let meta = meta.add(at * gemm::meta_bytes::<F>());
                let weights = weights.add(at * F::LEN * SIDE);
                let corrections = corrections.add(b * F::LEN / 4 / quads::<F>());
                let totals = block::<F, N>(weights, meta, (near, b * F::LEN), corrections);
                let d_at = meta.add(gemm::meta_bytes::<F>() - 128).cast::<f32>();
                let (d, dmin) = (_mm512_loadu_ps(d_at), _mm512_loadu_ps(d_at.add(16)));
                for n in 0..N {
                    sums.add(n, totals[n], d, *act_scales[n].add(b));
                }
                if F::MINS {
                    for n in 0..N {
                        let total = mins::<F>(meta, act_sums[n].add(b * 16));
                        sums.subtract(n, total, dmin, *act_scales[n].add(b));
                    }
                }
            }
        }
        sums.store(panel, side, out, tile.n);
    }
}

/// Groups of four weights whose products are added before their scale multiplies them.
const fn quads<F: Format>() -> usize {
    if F::FOLDED {
        F::LEN / 4
    } else if F::SCALES_OF_32 {
        8
    } else {
        4
    }
}

/// Runs of weights with one scale in a panel's width, at most.
const RUNS: usize = PANEL_COLS / 16;

/// What is to be added to the products of each run so that the offset of the weights is gone.
///
/// # Safety
/// There must be a sum for every 16 of `cols` codes, and room for as many corrections.
unsafe fn correct<F: Format>(sums: *const i16, cols: usize, corrections: *mut i32) {
    let per_run = quads::<F>() / 4;
    for run in 0..cols / 16 / per_run {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut sum = 0;
            for i in 0..per_run {
                sum += i32::from(*sums.add(run * per_run + i));
            }
            corrections.add(run).write(-i32::from(F::OFFSET) * sum);
        }
    }
}

/// Exact sums of one block of 16 rows with `N` activation rows, which lie in `near` from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn block<F: Format, const N: usize>(
    weights: *const u8,
    meta: *const u8,
    (near, first): (*const u8, usize),
    corrections: *const i32,
) -> [__m512i; N] {
    let mut totals = [_mm512_setzero_si512(); N];
    let quads = const { quads::<F>() };
    for run in 0..F::LEN / 4 / quads {
        // SAFETY: the caller's block, its activations and their sums.
        unsafe {
            let mut products = [_mm512_setzero_si512(); N];
            if F::OFFSET != 0 {
                for n in 0..N {
                    products[n] = _mm512_set1_epi32(*corrections.add(n * RUNS + run));
                }
            }
            for quad in run * quads..(run + 1) * quads {
                let weights = _mm512_loadu_si512(weights.add(64 * quad).cast());
                let at = first + 4 * quad;
                let acts = near.add(at / 64 * N * 64 + at % 64);
                for (n, products) in products.iter_mut().enumerate() {
                    let act = _mm512_set1_epi32(*acts.add(64 * n).cast::<i32>());
                    *products = _mm512_dpbusd_epi32(*products, weights, act);
                }
            }
            for n in 0..N {
                let scaled = if F::LEN == 32 || F::FOLDED {
                    products[n]
                } else {
                    // The scale is there twice, as a pair of words.
                    let pair = _mm512_loadu_si512(meta.add(64 * run).cast());
                    _mm512_mullo_epi32(products[n], _mm512_srai_epi32::<16>(pair))
                };
                totals[n] = _mm512_add_epi32(totals[n], scaled);
            }
        }
    }
    totals
}

/// Exact sum of the minima of one block of 16 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn mins<F: Format>(meta: *const u8, act_sums: *const i16) -> __m512i {
    let mut total = _mm512_setzero_si512();
    for pair in 0..8 {
        // SAFETY: the caller's block has eight pairs of minima, its activations 16 sums.
        unsafe {
            let mins = _mm512_loadu_si512(meta.add(gemm::mins_at::<F>() + 64 * pair).cast());
            total = add_products_with(total, mins, act_sums.add(2 * pair).cast());
        }
    }
    total
}

/// The accumulators of 16 weight rows and `N` activation rows, in registers.
pub(super) struct Sums<const N: usize>([__m512; N]);

impl<const N: usize> Sums<N> {
    /// What the panels before have left in the output; zeros at the first.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(panel: &Panel, side: usize, out: &mut Out<'_>, n: usize) -> Self {
        let mut sums = [_mm512_setzero_ps(); N];
        if panel.first_col > 0 {
            let (col, len) = columns(panel, side);
            let n_rows = out.rows() - n;
            for (i, sum) in sums.iter_mut().enumerate().take(n_rows) {
                let values = out.part(n + i, col, len);
                // SAFETY: the mask has as many lanes as the slice has floats.
                *sum = unsafe { _mm512_maskz_loadu_ps(lanes(len), values.as_ptr()) };
            }
        }
        Self(sums)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store(&self, panel: &Panel, side: usize, out: &mut Out<'_>, n: usize) {
        let (col, len) = columns(panel, side);
        let n_rows = out.rows() - n;
        for (i, sum) in self.0.iter().enumerate().take(n_rows) {
            let values = out.part(n + i, col, len);
            // SAFETY: the mask has as many lanes as the slice has floats.
            unsafe { _mm512_mask_storeu_ps(values.as_mut_ptr(), lanes(len), *sum) };
        }
    }

    /// `sum = fma(total, d * scale, sum)`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn add(&mut self, n: usize, total: __m512i, d: __m512, scale: f32) {
        let scale = _mm512_mul_ps(d, _mm512_set1_ps(scale));
        self.0[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), scale, self.0[n]);
    }

    /// `sum = fma(-total, d * scale, sum)`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn subtract(&mut self, n: usize, total: __m512i, d: __m512, scale: f32) {
        let scale = _mm512_mul_ps(d, _mm512_set1_ps(scale));
        self.0[n] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(total), scale, self.0[n]);
    }
}

/// First output column of 16 weight rows, and how many there are.
fn columns(panel: &Panel, side: usize) -> (usize, usize) {
    (panel.first_row + side * SIDE, SIDE.min(panel.rows - side * SIDE))
}

/// The first `len` lanes of 16.
fn lanes(len: usize) -> __mmask16 {
    u16::MAX >> (SIDE - len)
}

/// Asks for `bytes` of every row: those that are gathered next.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn fetch<const N: usize>(rows: [*const u8; N], bytes: std::ops::Range<usize>) {
    for at in bytes.step_by(64) {
        for row in rows {
            _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(at).cast());
        }
    }
}
