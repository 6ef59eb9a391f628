//! Q2_K: bits are masked where they lie, so that one shift serves all four runs of a byte, and sums of dwords are packed
//! to words, so that two of them meet their scales in one multiplication.

use std::arch::x86_64::*;

use super::gemv::{BLOCKS, Near, OneRow, Places, ROWS, Sums};
use super::lanes::{load, quad, whole_sums};
use crate::arch::x86_64::lanes::add_products;
use crate::dot::{Line, RoundedRows};

/// Weights `128 h + 32 s + 16 p + i` of a block are the bits from `2 s` on of byte `32 h + 16 p + i` of its codes,
/// and have scale and minimum `8 h + 2 s + p`. Vectors of unpacked weights are numbered by `s`; 128 bits of one have
/// one scale.
const VECTORS: usize = 4;

/// For a pair of vectors, the scale of every word of their packed sums: its place in the low byte, nothing above.
static SCALES: [[u8; 64]; 2] = {
    let mut places = [[0x80; 64]; 2];
    let mut i = 0;
    while i < 64 {
        let (pair, word) = (i / 32, i % 32);
        let (lane, s) = (word / 8, 2 * pair + word / 4 % 2);
        places[pair][2 * word] = (8 * (lane / 2) + 2 * s + lane % 2) as u8;
        i += 1;
    }
    places
};

/// [`products`] are so many powers of two above what they stand for.
const SHIFT: u32 = 4;

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
            let codes = acts.codes(row)[256 * b..][..256].as_chunks::<16>().0;
            for (s, line) in lines.iter_mut().take(VECTORS).enumerate() {
                for (lane, sixteen) in line.0.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                    let codes = codes[8 * (lane / 2) + 2 * s + lane % 2];
                    *sixteen = codes.map(i8::cast_unsigned);
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
        let total = _mm512_srai_epi32::<SHIFT>(whole_sums(quads));
        Sums { total, d, mins: Some((mins, dmin)) }
    }
}

/// Scaled products of one block, [`SHIFT`] bits up, still to be added over the lanes.
///
/// # Safety
/// `block` must lead to a block, `acts` to the lines of its activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn products(block: *const u8, acts: *const u8) -> __m512i {
    // SAFETY: 16 bytes of scales, then 64 of codes; both tables have 64 bytes.
    let (scales, codes, orders) = unsafe {
        let scales = _mm512_broadcast_i32x4(_mm_loadu_si128(block.cast()));
        let orders = [load(SCALES[0].as_ptr()), load(SCALES[1].as_ptr())];
        (_mm512_and_si512(scales, _mm512_set1_epi8(15)), load(block.add(16)), orders)
    };
    let shifted = _mm512_srli_epi16::<2>(codes);
    // The lower two runs as they are, the upper two sixteenfold: words hold four products of either.
    let (low, high) = (_mm512_set1_epi8(3), _mm512_set1_epi8(3 << SHIFT));
    let weights = [
        _mm512_and_si512(codes, low),
        _mm512_and_si512(shifted, low),
        _mm512_and_si512(codes, high),
        _mm512_and_si512(shifted, high),
    ];
    let mut totals = [_mm512_setzero_si512(); VECTORS];
    for (s, weights) in weights.into_iter().enumerate() {
        // SAFETY: one of the caller's lines.
        let acts = unsafe { load(acts.add(64 * s)) };
        totals[s] = _mm512_dpbusd_epi32(totals[s], weights, acts);
    }
    let lower = _mm512_packs_epi32(totals[0], totals[1]);
    let lower = _mm512_madd_epi16(lower, _mm512_shuffle_epi8(scales, orders[0]));
    let upper = _mm512_packs_epi32(totals[2], totals[3]);
    let lower = _mm512_slli_epi32::<SHIFT>(lower);
    add_products(lower, upper, _mm512_shuffle_epi8(scales, orders[1]))
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
