//! Q2_K: four shifts of a block's bytes, of which one selects the bits of two runs at a time, so that no dword
//! adds up weights with different scales before these have multiplied it.

use std::arch::x86_64::*;

use super::gemv::{BLOCKS, Near, OneRow, Places, ROWS, Sums};
use super::lanes::{load, quad, whole_sums};
use crate::dot::{Line, RoundedRows};

/// Weights `128 h + 32 s + 16 p + i` of a block are the bits from `2 s` on of byte `32 h + 16 p + i` of its codes,
/// and have scale and minimum `8 h + 2 s + p`. Vectors of unpacked weights are numbered by two bits: the upper one
/// chooses `s` of 0 and 1, or 2 and 3; the lower one, which half of every eight bytes.
const VECTORS: usize = 4;

/// Offsets in every 64 bits of codes: four bytes of the lesser shift, the same four of the greater one.
const fn shifts(vector: usize) -> i64 {
    let mut offsets = [0; 8];
    let mut i = 0;
    while i < 8 {
        offsets[i] = (32 * (vector % 2) + 8 * (i % 4) + 2 * (vector / 2 * 2 + i / 4)) as u8;
        i += 1;
    }
    i64::from_le_bytes(offsets)
}

/// The weight in byte `i` of a vector.
const fn weight(vector: usize, i: usize) -> usize {
    let (lane, half, byte) = (i / 16, i / 8 % 2, i % 8);
    let s = vector / 2 * 2 + byte / 4;
    128 * (lane / 2) + 32 * s + 16 * (lane % 2) + 8 * half + 4 * (vector % 2) + byte % 4
}

/// For a pair of vectors, the scale of every dword: its place in the low byte, nothing above.
static SCALES: [[u8; 64]; 2] = {
    let mut places = [[0x80; 64]; 2];
    let mut i = 0;
    while i < 32 {
        let (pair, dword) = (i / 16, i % 16);
        places[pair][4 * dword] = (weight(2 * pair, 4 * dword) / 16) as u8;
        i += 1;
    }
    places
};

/// Lines of an activation block: those that the vectors meet, upper and lower parts of the sums of 16.
const LINES: usize = VECTORS + 2;

pub(super) struct Q2K;

impl OneRow for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const LINES: usize = BLOCKS * LINES;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn arrange(acts: &RoundedRows, row: usize, at: [usize; BLOCKS], lines: &mut [Line]) {
        for (b, lines) in at.into_iter().zip(lines.chunks_exact_mut(LINES)) {
            let codes = acts.codes(row)[256 * b..][..256].as_chunks::<4>().0;
            for (vector, line) in lines.iter_mut().take(VECTORS).enumerate() {
                for (dword, four) in line.0.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *four = codes[weight(vector, 4 * dword) / 4].map(i8::cast_unsigned);
                }
            }
            // `16 * upper + lower`, of which one is a signed byte and one is below 16; four times for four rows.
            for (i, sum) in acts.sums(row)[16 * b..][..16].iter().enumerate() {
                for lane in 0..4 {
                    lines[VECTORS].0[16 * lane + i] = (sum >> 4) as u8;
                    lines[VECTORS + 1].0[16 * lane + i] = (sum & 15) as u8;
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn sums(places: &Places<'_>, near: &Near<'_>) -> Sums {
        let lines = near.lines.as_ptr().cast::<u8>();
        let (mut quads, mut mins) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
        for i in 0..4 {
            // SAFETY: the caller's blocks and lines.
            unsafe {
                let lines = lines.add(64 * LINES * (4 * i / ROWS));
                let four = [0, 1, 2, 3].map(|j| places.at(4 * i + j));
                quads[i] = quad([
                    products(four[0], lines),
                    products(four[1], lines),
                    products(four[2], lines),
                    products(four[3], lines),
                ]);
                mins[i] = minima(four, lines.add(64 * VECTORS));
            }
        }
        // Dword `i` of 128 bits `r` is row `r` of `mins[i]`.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let mins = _mm512_permutexvar_epi32(order, quad(mins));
        // SAFETY: a block ends with its scale and that of its minima.
        let (d, dmin) = unsafe { scales(places) };
        Sums { total: whole_sums(quads), d, mins: Some((mins, dmin)) }
    }
}

/// Scaled products of one block, still to be added over the lanes.
///
/// # Safety
/// `block` must lead to a block, `acts` to the lines of its activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn products(block: *const u8, acts: *const u8) -> __m512i {
    // SAFETY: 16 bytes of scales, then 64 of codes.
    let (scales, codes) = unsafe {
        let scales = _mm512_broadcast_i32x4(_mm_loadu_si128(block.cast()));
        (_mm512_and_si512(scales, _mm512_set1_epi8(15)), load(block.add(16)))
    };
    let mut totals = [_mm512_setzero_si512(); 2];
    for vector in 0..VECTORS {
        let bits = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(shifts(vector)), codes);
        let weights = _mm512_and_si512(bits, _mm512_set1_epi8(3));
        // SAFETY: one of the caller's lines.
        let acts = unsafe { load(acts.add(64 * vector)) };
        totals[vector / 2] = _mm512_dpbusd_epi32(totals[vector / 2], weights, acts);
    }
    // SAFETY: both tables have 64 bytes.
    let orders = unsafe { [load(SCALES[0].as_ptr()), load(SCALES[1].as_ptr())] };
    // A sum of eight products fits in a word, and the upper words of scales are zero.
    let total = _mm512_madd_epi16(totals[0], _mm512_shuffle_epi8(scales, orders[0]));
    _mm512_dpwssd_epi32(total, totals[1], _mm512_shuffle_epi8(scales, orders[1]))
}

/// Minima times activations of four blocks, 128 bits each, still to be added over these.
///
/// # Safety
/// Every place must lead to a block, `sums` to both lines of sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn minima(blocks: [*const u8; 4], sums: *const u8) -> __m512i {
    // SAFETY: a block starts with 16 bytes of scales, of which the upper halves are minima.
    let (mins, upper, lower) = unsafe {
        let [a, b, c, d] = blocks.map(|block| _mm_loadu_si128(block.cast()));
        let (low, high) = (_mm256_set_m128i(b, a), _mm256_set_m128i(d, c));
        let mins = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        (mins, load(sums), load(sums.add(64)))
    };
    let sixteenfold = _mm512_and_si512(mins, _mm512_set1_epi8(0xF0_u8 as i8));
    let mins = _mm512_and_si512(_mm512_srli_epi16::<4>(mins), _mm512_set1_epi8(15));
    let total = _mm512_dpbusd_epi32(_mm512_setzero_si512(), sixteenfold, upper);
    _mm512_dpbusd_epi32(total, mins, lower)
}

/// The scales of 16 blocks, and those of their minima.
///
/// # Safety
/// Every place must lead to a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn scales(places: &Places<'_>) -> (__m512, __m512) {
    // SAFETY: four bytes from byte 80 on.
    let both = |i: usize| unsafe { places.at(i).add(80).cast::<i32>().read_unaligned() };
    let both = _mm512_setr_epi32(
        both(0),
        both(1),
        both(2),
        both(3),
        both(4),
        both(5),
        both(6),
        both(7),
        both(8),
        both(9),
        both(10),
        both(11),
        both(12),
        both(13),
        both(14),
        both(15),
    );
    let even = _mm512_cvtepi32_epi16(both);
    let odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(both));
    (_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd))
}
