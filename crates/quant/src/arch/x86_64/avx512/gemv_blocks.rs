//! Formats with 256 weights to a block and a scale for every 16 or 32 of them, against one or two
//! activation rows.

use std::arch::x86_64::*;

use super::gemv::{BLOCKS, Near, OneRow, Places, ROWS, Sums};
use super::lanes::{both, gather_f16, half_sums, load, quad, whole_sums};
use crate::arch::x86_64::formats::{self, Format};
use crate::dot::RoundedRows;

/// How a format lies in vectors of 64 bytes.
pub(super) trait Wide: Format {
    /// The four vectors' weights: first weight of the low half and of the high half of each.
    const HALVES: [[usize; 2]; 4];
    /// Where the scales of the block itself and of its minima are.
    const D: [usize; 2];

    /// The weights as unsigned bytes, `OFFSET` above what they are.
    ///
    /// # Safety
    /// `block` must lead to a block of this format.
    unsafe fn unpack(block: *const u8) -> [__m512i; 4];
}

/// `v >> BY` of every byte, of which `mask` is kept.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn shifted<const BY: u32>(v: __m512i, mask: i8) -> __m512i {
    _mm512_and_si512(_mm512_srli_epi16::<BY>(v), _mm512_set1_epi8(mask))
}

impl Wide for formats::Q4K {
    const HALVES: [[usize; 2]; 4] = [[0, 64], [32, 96], [128, 192], [160, 224]];
    const D: [usize; 2] = [0, 2];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn unpack(block: *const u8) -> [__m512i; 4] {
        // SAFETY: 128 bytes of codes start at byte 16.
        let (a, b) = unsafe { (load(block.add(16)), load(block.add(80))) };
        [shifted::<0>(a, 15), shifted::<4>(a, 15), shifted::<0>(b, 15), shifted::<4>(b, 15)]
    }
}

impl Wide for formats::Q6K {
    const HALVES: [[usize; 2]; 4] = [[0, 32], [64, 96], [128, 160], [192, 224]];
    const D: [usize; 2] = [208, 208];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn unpack(block: *const u8) -> [__m512i; 4] {
        // The two high bits of a half's 128 weights are four to a byte: the first and third part's are
        // wanted in the low half of a vector, the second and fourth one's in the high half.
        let left = _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2);
        let right = _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2);
        let (keep, low_bits) = (_mm512_set1_epi8(0x30), _mm512_set1_epi8(15));
        let mut parts = [_mm512_setzero_si512(); 4];
        for half in 0..2 {
            // SAFETY: 128 bytes of low parts, then 64 of high parts.
            let (low, high) = unsafe {
                let high = _mm256_loadu_si256(block.add(128 + 32 * half).cast());
                (load(block.add(64 * half)), _mm512_broadcast_i64x4(high))
            };
            let first = _mm512_and_si512(_mm512_sllv_epi64(high, left), keep);
            let second = _mm512_and_si512(_mm512_srlv_epi64(high, right), keep);
            // `low & 15 | high`.
            parts[2 * half] = _mm512_ternarylogic_epi64::<0xF8>(first, low, low_bits);
            let low = _mm512_srli_epi16::<4>(low);
            parts[2 * half + 1] = _mm512_ternarylogic_epi64::<0xF8>(second, low, low_bits);
        }
        parts
    }
}

impl<F: Wide> OneRow for F {
    const LEN: usize = 256;
    const BYTES: usize = <F as Format>::BYTES;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn sums(places: &Places<'_>, near: &Near<'_>) -> Sums {
        let acts = blocks::<F>(near.acts, near.row, near.at);
        let order = scale_order::<F>();
        let mut quads = [_mm512_setzero_si512(); 4];
        for (i, sum) in quads.iter_mut().enumerate() {
            let mut products = [_mm512_setzero_si512(); 4];
            for (j, products) in products.iter_mut().enumerate() {
                let place = 4 * i + j;
                // SAFETY: the caller's block.
                *products =
                    unsafe { block_sum::<F>(places.at(place), &acts[place / ROWS], &order) };
            }
            *sum = quad(products);
        }
        let total = whole_sums(quads);
        // SAFETY: the scales lie in the caller's blocks.
        let (d, dmin) = unsafe { (gather_f16(places, F::D[0]), gather_f16(places, F::D[1])) };
        if !F::MINS {
            return Sums { total, d, mins: None };
        }
        let mut products = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..8 {
            let place = i / 4 * 8 + i % 4;
            // SAFETY: the caller's blocks.
            let (low, high) =
                unsafe { (F::header(places.at(place)).mins, F::header(places.at(place + 4)).mins) };
            let mins = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
            let sums = _mm512_broadcast_i64x4(acts[place / ROWS].sums);
            products[i / 4][i % 4] = _mm512_madd_epi16(_mm512_cvtepu8_epi16(mins), sums);
        }
        let mins = half_sums([quad(products[0]), quad(products[1])]);
        Sums { total, d, mins: Some((mins, dmin)) }
    }
}

/// Blocks `at` of an activation row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn blocks<F: Wide>(acts: &RoundedRows, row: usize, at: [usize; BLOCKS]) -> [Block; BLOCKS] {
    let mut blocks = [Block::new::<F>(acts, row, at[0]); BLOCKS];
    for (block, b) in blocks.iter_mut().zip(at).skip(1) {
        *block = Block::new::<F>(acts, row, b);
    }
    blocks
}

/// One block of activations.
#[derive(Clone, Copy)]
struct Block {
    codes: [__m512i; 4],
    /// Of every 16 codes.
    sums: __m256i,
}

impl Block {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn new<F: Wide>(acts: &RoundedRows, row: usize, b: usize) -> Self {
        let codes = &acts.codes(row)[256 * b..][..256];
        let sums = &acts.sums(row)[16 * b..][..16];
        let mut block = Self { codes: [_mm512_setzero_si512(); 4], sums: _mm256_setzero_si256() };
        // SAFETY: halves of 32 codes lie in the block; 16 sums are 32 bytes.
        unsafe {
            block.sums = _mm256_loadu_si256(sums.as_ptr().cast());
            for (vector, [low, high]) in block.codes.iter_mut().zip(F::HALVES) {
                *vector = both(codes.as_ptr().add(low).cast(), codes.as_ptr().add(high).cast());
            }
        }
        block
    }
}

/// For every vector of a block, which of the 16 scales multiplies each pair of products.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn scale_order<F: Wide>() -> [__m512i; 4] {
    let order = const {
        let mut order = [[0u16; 32]; 4];
        let mut i = 0;
        while i < 128 {
            let (vector, word) = (i / 32, i % 32);
            let weight = F::HALVES[vector][word / 16] + word % 16 * 2;
            order[vector][word] = (weight / 16) as u16;
            i += 1;
        }
        order
    };
    let mut vectors = [_mm512_setzero_si512(); 4];
    for (vector, words) in vectors.iter_mut().zip(&order) {
        // SAFETY: 32 words are the vector's 64 bytes.
        *vector = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
    }
    vectors
}

/// Scaled products of one block, still to be added over the lanes.
///
/// # Safety
/// `block` must lead to a block of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn block_sum<F: Wide>(block: *const u8, acts: &Block, order: &[__m512i; 4]) -> __m512i {
    // SAFETY: promised by the caller.
    let (header, weights) = unsafe { (F::header(block), F::unpack(block)) };
    let scales = _mm256_cvtepi8_epi16(header.scales);
    // Two sums: four products in a row would wait for one another.
    let mut totals = [_mm512_setzero_si512(); 2];
    if F::OFFSET != 0 {
        let excess = _mm256_madd_epi16(scales, acts.sums);
        let excess = _mm256_mullo_epi32(excess, _mm256_set1_epi32(-i32::from(F::OFFSET)));
        totals[0] = _mm512_zextsi256_si512(excess);
    }
    for (i, weights) in weights.into_iter().enumerate() {
        let products = _mm512_maddubs_epi16(weights, acts.codes[i]);
        let scales = _mm512_permutexvar_epi16(order[i], _mm512_castsi256_si512(scales));
        totals[i % 2] = _mm512_dpwssd_epi32(totals[i % 2], products, scales);
    }
    _mm512_add_epi32(totals[0], totals[1])
}
