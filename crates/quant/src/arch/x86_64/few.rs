//! Two to sixteen activation rows and formats with a scale for every 32 weights: blocks of sixteen weight rows are
//! turned in registers, so that a lane is a row, and up to eight activation rows meet them there. Nothing that is
//! unpacked goes through memory.

use std::arch::x86_64::*;

use super::lanes::{add_products_with, gather_f16};
use super::vnni::transpose;
use crate::TensorType;
use crate::dot::{Out, PANEL_COLS, RoundedRows, Scratch, Weights, picked};

/// Weight rows side by side, and the fewest that a matrix may have.
const SIDE: usize = 16;
/// Activation rows of the widest tile: with eight vectors of weights, sums and accumulators of eight.
const WIDE: usize = 8;
/// Columns whose activations are brought together, in blocks.
const BLOCKS: usize = PANEL_COLS / 32;

/// A format whose blocks are turned in registers.
pub(super) trait Turned {
    /// Bytes of a block.
    const BYTES: usize;
    /// Bytes of 32 activations.
    const ACT_BYTES: usize;

    /// Copies block `b` of activation row `row`; returns where sums of products with it start.
    ///
    /// # Safety
    /// The row must have the block, and `to` room for it.
    unsafe fn gather(acts: &RoundedRows, row: usize, b: usize, to: *mut u8) -> i32;

    /// Blocks of sixteen rows, `stride` bytes apart: what is stored of four or eight weights of each in a vector.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn columns(at: *const u8, stride: usize) -> [__m512i; 8];

    /// Their scales.
    ///
    /// # Safety
    /// As for `columns`.
    unsafe fn scales(at: *const u8, stride: usize) -> __m512;

    /// Exact sums of the products with `N` gathered blocks of activations, from `starts` on.
    ///
    /// # Safety
    /// There must be so many.
    unsafe fn sums<const N: usize>(
        columns: &[__m512i; 8],
        acts: *const u8,
        starts: &[i32; N],
    ) -> [__m512i; N];
}

/// Activations are words here: bytes are widened by shifts, even ones and odd ones apart.
pub(super) struct Q8_0;

impl Turned for Q8_0 {
    const BYTES: usize = 34;
    const ACT_BYTES: usize = 64;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn gather(acts: &RoundedRows, row: usize, b: usize, to: *mut u8) -> i32 {
        let codes = &acts.wide(row)[32 * b..][..32];
        // SAFETY: 32 words are 64 bytes.
        unsafe { _mm512_storeu_si512(to.cast(), _mm512_loadu_si512(codes.as_ptr().cast())) };
        0
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn columns(at: *const u8, stride: usize) -> [__m512i; 8] {
        let mut rows = [_mm512_setzero_si512(); 8];
        for (r, row) in rows.iter_mut().enumerate() {
            // SAFETY: a block is two bytes of scale and 32 weights.
            unsafe {
                let low = _mm256_loadu_si256(at.add(r * stride + 2).cast());
                let high = _mm256_loadu_si256(at.add((r + 8) * stride + 2).cast());
                // A load under a mask leaves the shuffles their unit.
                let low = _mm512_castsi256_si512(low);
                *row = _mm512_mask_broadcast_i64x4(low, 0xF0, high);
            }
        }
        transpose(&rows)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn scales(at: *const u8, stride: usize) -> __m512 {
        let (mut low, mut high) = ([at; 8], [at; 8]);
        for r in 0..8 {
            (low[r], high[r]) = (at.wrapping_add(r * stride), at.wrapping_add((r + 8) * stride));
        }
        // SAFETY: a block starts with its scale.
        let (low, high) = unsafe { (gather_f16(low), gather_f16(high)) };
        let (low, high) = (_mm256_castps_pd(low), _mm256_castps_pd(high));
        _mm512_castpd_ps(_mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn sums<const N: usize>(
        columns: &[__m512i; 8],
        acts: *const u8,
        _: &[i32; N],
    ) -> [__m512i; N] {
        let mut totals = [_mm512_setzero_si512(); N];
        let acts = acts.cast::<i32>();
        for (quad, column) in columns.iter().enumerate() {
            let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(*column));
            let odd = _mm512_srai_epi16::<8>(*column);
            // All even ones first: neighbours that wait for each other's sums take an eighth longer.
            for (half, pairs) in [even, odd].into_iter().enumerate() {
                for (n, total) in totals.iter_mut().enumerate() {
                    // SAFETY: a row's block is 16 dwords.
                    unsafe {
                        let at = acts.add(16 * n + 8 * half + quad);
                        *total = add_products_with(*total, pairs, at);
                    }
                }
            }
        }
        totals
    }
}

/// Codes index a table of integers that lie 12 above twice the weights.
pub(super) struct Mxfp4;

impl Turned for Mxfp4 {
    const BYTES: usize = 17;
    const ACT_BYTES: usize = 32;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn gather(acts: &RoundedRows, row: usize, b: usize, to: *mut u8) -> i32 {
        let codes = &acts.codes(row)[32 * b..][..32];
        // SAFETY: 32 codes are 32 bytes.
        unsafe { _mm256_storeu_si256(to.cast(), _mm256_loadu_si256(codes.as_ptr().cast())) };
        let sums = &acts.sums(row)[2 * b..][..2];
        -12 * (i32::from(sums[0]) + i32::from(sums[1]))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn columns(at: *const u8, stride: usize) -> [__m512i; 8] {
        let mut rows = [_mm512_setzero_si512(); 4];
        for (r, row) in rows.iter_mut().enumerate() {
            // Rows `r`, `r + 4` and so on, 128 bits each.
            // SAFETY: a block is a byte of scale and 16 bytes of codes.
            unsafe {
                let at = at.add(r * stride + 1);
                let four = _mm512_castsi128_si512(_mm_loadu_si128(at.cast()));
                // Loads under masks leave the shuffles their unit.
                let second = _mm_loadu_si128(at.add(4 * stride).cast());
                let four = _mm512_mask_broadcast_i32x4(four, 0x00F0, second);
                let third = _mm_loadu_si128(at.add(8 * stride).cast());
                let four = _mm512_mask_broadcast_i32x4(four, 0x0F00, third);
                let fourth = _mm_loadu_si128(at.add(12 * stride).cast());
                *row = _mm512_mask_broadcast_i32x4(four, 0xF000, fourth);
            }
        }
        let [a, b, c, d] = rows;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        let codes = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab2, cd2),
            _mm512_unpackhi_epi64(ab2, cd2),
        ];
        let table = _mm512_broadcast_i32x4(_mm_setr_epi8(
            12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0,
        ));
        let low = _mm512_set1_epi8(15);
        let mut columns = [_mm512_setzero_si512(); 8];
        for (quad, codes) in codes.into_iter().enumerate() {
            // Low nibbles are the first sixteen weights.
            columns[quad] = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, low));
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low);
            columns[4 + quad] = _mm512_shuffle_epi8(table, high);
        }
        columns
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn scales(at: *const u8, stride: usize) -> __m512 {
        // Joined by the integer units, which have nothing else to do.
        let mut halves = [0u64; 2];
        for (half, eight) in halves.iter_mut().enumerate() {
            for r in 0..8 {
                // SAFETY: a block starts with its scale.
                let scale = unsafe { *at.add((8 * half + r) * stride) };
                *eight |= u64::from(scale) << (8 * r);
            }
        }
        let bytes = _mm_set_epi64x(halves[1] as i64, halves[0] as i64);
        half_ue8m0(bytes)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn sums<const N: usize>(
        columns: &[__m512i; 8],
        acts: *const u8,
        starts: &[i32; N],
    ) -> [__m512i; N] {
        let mut totals = [_mm512_setzero_si512(); N];
        for (total, start) in totals.iter_mut().zip(starts) {
            *total = _mm512_set1_epi32(*start);
        }
        let acts = acts.cast::<i32>();
        for (quad, column) in columns.iter().enumerate() {
            for (n, total) in totals.iter_mut().enumerate() {
                // SAFETY: a row's block is 8 dwords.
                let act = unsafe { *acts.add(8 * n + quad) };
                *total = _mm512_dpbusd_epi32(*total, *column, _mm512_set1_epi32(act));
            }
        }
        totals
    }
}

/// `2^(e - 128)` for each byte `e`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn half_ue8m0(e: __m128i) -> __m512 {
    let e = _mm512_cvtepu8_epi32(e);
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    let small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
    _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, small, subnormal))
}

/// Whether these weights are multiplied here: their format has a scale for every 32, and they fill a tile.
pub(super) fn serves(w: &Weights<'_>) -> bool {
    matches!(w.ty(), TensorType::Q8_0 | TensorType::Mxfp4) && w.rows() >= SIDE
}

/// All weight rows, of which there are at least [`SIDE`], times the activation rows in use.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn rows<F: Turned>(
    w: &Weights<'_>,
    (acts, index): (&RoundedRows, Option<&[u32]>),
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = w.cols() / 32;
    let mut n = 0;
    while n < out.rows() {
        // As few tiles as do, and those of much the same width.
        let left = out.rows() - n;
        let wide = left.div_ceil(left.div_ceil(WIDE));
        let mut first = 0;
        while first < n_blocks {
            let part = Part { first, blocks: BLOCKS.min(n_blocks - first), index, n };
            // SAFETY: the blocks lie in `w`, the rows in `out`; `acts` are as wide as the weights.
            unsafe {
                match wide {
                    1 => tile::<F, 1>(w, acts, part, out, scratch),
                    2 => tile::<F, 2>(w, acts, part, out, scratch),
                    3 => tile::<F, 3>(w, acts, part, out, scratch),
                    4 => tile::<F, 4>(w, acts, part, out, scratch),
                    5 => tile::<F, 5>(w, acts, part, out, scratch),
                    6 => tile::<F, 6>(w, acts, part, out, scratch),
                    7 => tile::<F, 7>(w, acts, part, out, scratch),
                    _ => tile::<F, 8>(w, acts, part, out, scratch),
                }
            }
            first += BLOCKS;
        }
        n += wide;
    }
}

/// Blocks of every row that are worked on together, and the activation rows from the `n`-th used one on.
#[derive(Clone, Copy)]
struct Part<'a> {
    first: usize,
    blocks: usize,
    index: Option<&'a [u32]>,
    n: usize,
}

/// What belongs to one block of `N` activation rows.
#[derive(Clone, Copy)]
#[repr(C)]
struct Beside<const N: usize> {
    scales: [f32; N],
    starts: [i32; N],
}

/// Asks for as many bytes of the sixteen rows after those from `row` on as their block `b` has. Requests past the end
/// do nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn fetch_next<F: Turned>(w: &Weights<'_>, part: Part<'_>, row: usize, b: usize) {
    let next = w.row(row).as_ptr().wrapping_add(SIDE * w.row_bytes());
    if part.blocks * F::BYTES == w.row_bytes() {
        // Whole rows lie side by side.
        let next = next.wrapping_add(b * SIDE * F::BYTES);
        for line in 0..(SIDE * F::BYTES).div_ceil(64) {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(64 * line).cast());
        }
    } else {
        // Two blocks are about a line: half of the rows each time.
        for r in b % 2 * 8..b % 2 * 8 + 8 {
            let at = next.wrapping_add(r * w.row_bytes() + (part.first + b) * F::BYTES);
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        }
    }
}

/// A part of all weight rows times `N` activation rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<F: Turned, const N: usize>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    part: Part<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let near = scratch.acts.as_mut_ptr().cast::<u8>();
    let mut beside = [Beside { scales: [0.0; N], starts: [0; N] }; BLOCKS];
    for i in 0..N {
        let row = picked(part.index, part.n + i);
        let scales = &acts.scales(row)[part.first..][..part.blocks];
        for (b, scale) in scales.iter().enumerate() {
            const { assert!(WIDE * PANEL_COLS * 2 <= Scratch::ACT_BYTES) };
            // SAFETY: the row has the block; so many activations find room.
            let start = unsafe {
                F::gather(acts, row, part.first + b, near.add((b * N + i) * F::ACT_BYTES))
            };
            (beside[b].scales[i], beside[b].starts[i]) = (*scale, start);
        }
    }
    let stride = w.row_bytes();
    let mut first = 0;
    while first < w.rows() {
        // The last rows may be computed twice, and are stored once.
        let at = first.min(w.rows() - SIDE);
        let fresh = u16::MAX << (first - at);
        let mut acc = [_mm512_setzero_ps(); N];
        if part.first > 0 {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the slice has sixteen floats.
                *acc = unsafe { _mm512_loadu_ps(out.part(part.n + i, at, SIDE).as_ptr()) };
            }
        }
        let block = w.row(at)[part.first * F::BYTES..].as_ptr();
        for (b, beside) in beside[..part.blocks].iter().enumerate() {
            fetch_next::<F>(w, part, at, b);
            let block = block.wrapping_add(b * F::BYTES);
            // SAFETY: the sixteen rows have this block, the gathered rows too.
            let (d, sums) = unsafe {
                let columns = F::columns(block, stride);
                let acts = near.add(b * N * F::ACT_BYTES);
                (F::scales(block, stride), F::sums::<N>(&columns, acts, &beside.starts))
            };
            for i in 0..N {
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(beside.scales[i]));
                acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), scale, acc[i]);
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            let y = out.part(part.n + i, at, SIDE);
            // SAFETY: the slice has sixteen floats.
            unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), fresh, acc) };
        }
        first += SIDE;
    }
}
