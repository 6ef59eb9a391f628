//! IQ2_XXS in registers: the codebook's 256 entries of eight magnitudes out of three are 512 bytes as
//! codes of two bits, which eight registers hold.

use std::arch::x86_64::*;

use super::gemv::{BLOCKS, OneRow, Places, ROWS, Sums};
use super::lanes::{gather_f16, quad, whole_sums};
use crate::dot::RoundedRows;
use crate::grids::{IQ2_XXS, SIGN_MASKS};

/// Distance of the unpacked bytes from the weights.
const OFFSET: i32 = 43;

/// Low bytes of the codebook's entries, then high bytes.
static CODES: [[u8; 256]; 2] = {
    let mut codes = [[0; 256]; 2];
    let mut i = 0;
    while i < 256 * 8 {
        let (entry, component) = (i / 8, i % 8);
        let code = match (IQ2_XXS[entry] >> (8 * component)) as u8 {
            8 => 0,
            25 => 1,
            _ => 2,
        };
        codes[component / 4][entry] |= code << (component % 4 * 2);
        i += 1;
    }
    codes
};

/// Weights by code (two bits) and sign (the third), [`OFFSET`] above; further bits do not matter.
static WEIGHTS: [u8; 64] = {
    let mut weights = [0; 64];
    let mut i = 0;
    while i < 64 {
        let magnitude = [8, 25, 43, 0][i % 4];
        weights[i] = if i & 4 == 0 { 43 + magnitude } else { 43 - magnitude };
        i += 1;
    }
    weights
};

/// A one in every byte.
const ONES: i64 = 0x0101_0101_0101_0101;

/// What unpacking takes, in registers as far as there are some.
pub(super) struct Tables {
    low: [__m512i; 4],
    high: [__m512i; 4],
    parity: [__m512i; 2],
    weights: __m512i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn new() -> Self {
        // SAFETY: every offset has 64 bytes behind it.
        unsafe {
            let (low, high, parity) = (CODES[0].as_ptr(), CODES[1].as_ptr(), SIGN_MASKS.as_ptr());
            Self {
                low: [load(low), load(low.add(64)), load(low.add(128)), load(low.add(192))],
                high: [load(high), load(high.add(64)), load(high.add(128)), load(high.add(192))],
                parity: [load(parity), load(parity.add(64))],
                weights: load(WEIGHTS.as_ptr()),
            }
        }
    }

    /// Entries of a table of 256 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn pick(table: &[__m512i; 4], index: __m512i, upper: __mmask64) -> __m512i {
        let low = _mm512_permutex2var_epi8(table[0], index, table[1]);
        let high = _mm512_permutex2var_epi8(table[2], index, table[3]);
        _mm512_mask_blend_epi8(upper, low, high)
    }

    /// Two blocks. Of each: four vectors, whose 64-bit lane `g` of vector `v` has weights
    /// `32 g + 8 v` to `32 g + 8 v + 7`, [`OFFSET`] above what they are; and the scales of the lanes,
    /// twice for each.
    ///
    /// # Safety
    /// Both places must lead to blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn unpack(&self, blocks: [*const u8; 2]) -> [([__m512i; 4], __m512i); 2] {
        // SAFETY: 64 bytes start at byte 2: eight times four indices and a dword of signs and scale.
        let (a, b) = unsafe { (load(blocks[0].add(2)), load(blocks[1].add(2))) };
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let index = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
        let rest = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
        let upper = _mm512_movepi8_mask(index);
        let (low, high) =
            (Self::pick(&self.low, index, upper), Self::pick(&self.high, index, upper));
        // Sixteen bits for every index, four indices to a lane.
        let codes = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
        // Seven bits of signs for every index; the eighth makes their number even.
        let sevens = _mm512_set1_epi64(i64::from_le_bytes([0, 7, 14, 21, 32, 39, 46, 53]));
        let sevens = _mm512_multishift_epi64_epi8(sevens, rest);
        let signs = _mm512_permutex2var_epi8(self.parity[0], sevens, self.parity[1]);
        let signs = [_mm512_unpacklo_epi32(signs, signs), _mm512_unpackhi_epi32(signs, signs)];
        let scales = _mm512_or_si512(_mm512_srli_epi32::<27>(rest), _mm512_set1_epi32(1));
        let scales = [_mm512_unpacklo_epi32(scales, scales), _mm512_unpackhi_epi32(scales, scales)];
        let mut weights = [[_mm512_setzero_si512(); 4]; 2];
        for (i, weights) in weights.iter_mut().enumerate() {
            for (v, weights) in weights.iter_mut().enumerate() {
                *weights = self.weights(codes[i], signs[i], v as i64);
            }
        }
        [(weights[0], scales[0]), (weights[1], scales[1])]
    }

    /// Eight weights from the `v`-th code and sign byte of every lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn weights(&self, codes: __m512i, signs: __m512i, v: i64) -> __m512i {
        // Byte `i` begins with bit `16 v + 2 i` of the codes and has bit `8 v + i` of the signs at its
        // third place.
        let code_bits = 0x0E0C_0A08_0604_0200 + 16 * v * ONES;
        let sign_bits = (0x0706_0504_0302_0100 + (8 * v + 62) * ONES) & 0x3F * ONES;
        let codes = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(code_bits), codes);
        let signs = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(sign_bits), signs);
        // Two bits of the codes, all others of the signs.
        let joined = _mm512_ternarylogic_epi64::<0xCA>(_mm512_set1_epi8(3), codes, signs);
        _mm512_permutexvar_epi8(joined, self.weights)
    }
}

pub(super) struct Iq2Xxs;

impl OneRow for Iq2Xxs {
    const LEN: usize = 256;
    const BYTES: usize = 66;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    unsafe fn sums(places: &Places, acts: &RoundedRows, row: usize, at: [usize; BLOCKS]) -> Sums {
        let tables = Tables::new();
        let mut near = [Block::new(acts, row, at[0]); BLOCKS];
        for (block, b) in near.iter_mut().zip(at).skip(1) {
            *block = Block::new(acts, row, b);
        }
        let mut quads = [_mm512_setzero_si512(); 4];
        for (i, sum) in quads.iter_mut().enumerate() {
            let mut products = [_mm512_setzero_si512(); 4];
            for pair in 0..2 {
                let place = 4 * i + 2 * pair;
                let acts = &near[place / ROWS];
                // SAFETY: the caller's blocks.
                let blocks = unsafe { tables.unpack([places[place], places[place + 1]]) };
                for (j, (weights, scales)) in blocks.into_iter().enumerate() {
                    let mut total = acts.offsets;
                    for v in 0..4 {
                        total = _mm512_dpbusd_epi32(total, weights[v], acts.codes[v]);
                    }
                    products[2 * pair + j] = _mm512_mullo_epi32(total, scales);
                }
            }
            *sum = quad(products);
        }
        // SAFETY: a block starts with its scale. Grid values are eight times the weights'.
        let d = unsafe { gather_f16(*places) };
        let d = _mm512_mul_ps(d, _mm512_set1_ps(0.125));
        Sums { total: whole_sums(quads), d, mins: None }
    }
}

/// 64 bytes.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// One block of activations, in the order of [`Tables::unpack`].
#[derive(Clone, Copy)]
struct Block {
    codes: [__m512i; 4],
    /// What takes the offset out of the products of every lane.
    offsets: __m512i,
}

impl Block {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    fn new(acts: &RoundedRows, row: usize, b: usize) -> Self {
        let codes = &acts.codes(row)[256 * b..][..256];
        let sums = &acts.sums(row)[16 * b..][..16];
        // SAFETY: 256 codes are four vectors, 16 sums are 32 bytes.
        let (quarters, sums) = unsafe {
            let at = codes.as_ptr().cast::<u8>();
            let quarters = [load(at), load(at.add(64)), load(at.add(128)), load(at.add(192))];
            (quarters, _mm256_loadu_si256(sums.as_ptr().cast()))
        };
        // Lanes `v`, `v + 4`, `v + 8`, …: of each pair of vectors first, then of all.
        let mut codes = [_mm512_setzero_si512(); 4];
        for v in 0..2 {
            let first = _mm512_set1_epi64(2 * v as i64);
            let order = _mm512_add_epi64(_mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13), first);
            let low = _mm512_permutex2var_epi64(quarters[0], order, quarters[1]);
            let high = _mm512_permutex2var_epi64(quarters[2], order, quarters[3]);
            codes[2 * v] = _mm512_shuffle_i64x2::<0b01_00_01_00>(low, high);
            codes[2 * v + 1] = _mm512_shuffle_i64x2::<0b11_10_11_10>(low, high);
        }
        let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(-(OFFSET as i16)));
        Self { codes, offsets: _mm512_cvtepu32_epi64(sums) }
    }
}
