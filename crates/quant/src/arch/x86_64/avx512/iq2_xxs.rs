//! IQ2_XXS in registers: the codebook's 256 entries of eight magnitudes out of three are two planes of
//! bits, 512 bytes, which eight registers hold.
//!
//! Two planes of codes and the signs make three bytes for every eight weights; a product of bit matrices
//! (`vgf2p8affineqb` by the unit matrix) turns the bytes of two such groups into eight bytes of six bits,
//! which index a table of weights.

use std::arch::x86_64::*;

use super::gemv::{BLOCKS, OneRow, Places, ROWS, Sums};
use super::lanes::{gather_f16, quad, whole_sums};
use crate::dot::RoundedRows;
use crate::grids::IQ2_XXS;

/// Distance of the unpacked bytes from the weights.
const OFFSET: i16 = 43;

/// Bit `i` of an entry's byte is the low, then the high bit of the code of component `i`.
static PLANES: [[u8; 256]; 2] = {
    let mut planes = [[0; 256]; 2];
    let mut i = 0;
    while i < 256 * 8 {
        let (entry, component) = (i / 8, i % 8);
        match (IQ2_XXS[entry] >> (8 * component)) as u8 {
            8 => {}
            25 => planes[0][entry] |= 1 << component,
            _ => planes[1][entry] |= 1 << component,
        }
        i += 1;
    }
    planes
};

/// The weight of three bits (low and high bit of the code, sign), [`OFFSET`] above what it is, for indices
/// that have them from bit `first` on, the first one highest, and whatever they like elsewhere.
const fn weights(first: usize) -> [u8; 128] {
    let mut weights = [0; 128];
    let mut i = 0;
    while i < 128 {
        let bits = i >> first & 7;
        let magnitude = [8, 43, 25, 0][bits >> 1];
        weights[i] = if bits & 1 == 0 { 43 + magnitude } else { 43 - magnitude };
        i += 1;
    }
    weights
}

/// For the first of two groups of eight weights, and for the second.
static WEIGHTS: [[u8; 128]; 2] = [weights(4), weights(0)];

/// What unpacking takes, in registers as far as there are some.
struct Tables {
    low: [__m512i; 4],
    high: [__m512i; 4],
    first: [__m512i; 2],
    second: __m512i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn new() -> Self {
        // SAFETY: every offset has 64 bytes behind it.
        unsafe {
            let (low, high) = (PLANES[0].as_ptr(), PLANES[1].as_ptr());
            Self {
                low: [load(low), load(low.add(64)), load(low.add(128)), load(low.add(192))],
                high: [load(high), load(high.add(64)), load(high.add(128)), load(high.add(192))],
                first: [load(WEIGHTS[0].as_ptr()), load(WEIGHTS[0].as_ptr().add(64))],
                second: load(WEIGHTS[1].as_ptr()),
            }
        }
    }

    /// Entries of a table of 256 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn pick(table: &[__m512i; 4], index: __m512i, upper: __mmask64) -> __m512i {
        let low = _mm512_permutex2var_epi8(table[0], index, table[1]);
        let high = _mm512_permutex2var_epi8(table[2], index, table[3]);
        _mm512_mask_blend_epi8(upper, low, high)
    }

    /// Two blocks.
    ///
    /// # Safety
    /// Both places must lead to blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn unpack(&self, blocks: [*const u8; 2]) -> [Unpacked; 2] {
        // SAFETY: 64 bytes start at byte 2: eight times four indices and a dword of signs and scale.
        let (a, b) = unsafe { (load(blocks[0].add(2)), load(blocks[1].add(2))) };
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        // Of every 128 bits, half is the first block's: two times 32 weights.
        let index = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
        let rest = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
        let upper = _mm512_movepi8_mask(index);
        let low = Self::pick(&self.low, index, upper);
        let high = Self::pick(&self.high, index, upper);
        // Seven bits of signs for every index; the eighth makes their number even.
        let sevens = _mm512_set1_epi64(i64::from_le_bytes([0, 7, 14, 21, 32, 39, 46, 53]));
        let sevens = _mm512_multishift_epi64_epi8(sevens, rest);
        let signs = _mm512_gf2p8affine_epi64_epi8::<0>(sevens, _mm512_set1_epi64(EVEN));
        let scales = _mm512_or_si512(_mm512_srli_epi32::<27>(rest), _mm512_set1_epi32(1));
        // A dword for every eight weights: something, both planes, signs.
        let (front, back) = (_mm512_unpacklo_epi8(low, low), _mm512_unpacklo_epi8(high, signs));
        let first = Unpacked {
            weights: self.weights(front, back),
            scales: [
                _mm512_shuffle_epi32::<0b00_00_00_00>(scales),
                _mm512_shuffle_epi32::<0b01_01_01_01>(scales),
            ],
        };
        let (front, back) = (_mm512_unpackhi_epi8(low, low), _mm512_unpackhi_epi8(high, signs));
        let second = Unpacked {
            weights: self.weights(front, back),
            scales: [
                _mm512_shuffle_epi32::<0b10_10_10_10>(scales),
                _mm512_shuffle_epi32::<0b11_11_11_11>(scales),
            ],
        };
        [first, second]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn weights(&self, front: __m512i, back: __m512i) -> [[__m512i; 2]; 2] {
        let groups = [_mm512_unpacklo_epi16(front, back), _mm512_unpackhi_epi16(front, back)];
        let mut weights = [[groups[0]; 2]; 2];
        for i in 0..2 {
            // Byte `j` of a lane gets bit `j` of each of its bytes, the first one's highest.
            let unit = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
            let codes = _mm512_gf2p8affine_epi64_epi8::<0>(unit, groups[i]);
            weights[i] = [
                _mm512_permutex2var_epi8(self.first[0], codes, self.first[1]),
                _mm512_permutexvar_epi8(codes, self.second),
            ];
        }
        weights
    }
}

/// As a matrix of bits: leaves the lower seven bits of a byte as they are, and makes the highest their parity.
const EVEN: i64 = 0x0102_0408_1020_407F;

/// A block. Its 32 groups of eight weights are numbered in order; 128-bit lane `l` of
/// `weights[i][j]` has groups `8 l + 4 i + j` and `8 l + 4 i + j + 2`, [`OFFSET`] above what they are.
struct Unpacked {
    weights: [[__m512i; 2]; 2],
    /// The scale of everything in the lanes of `weights[i]`.
    scales: [__m512i; 2],
}

pub(super) struct Iq2Xxs;

impl OneRow for Iq2Xxs {
    const LEN: usize = 256;
    const BYTES: usize = 66;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn sums(
        places: &Places<'_>,
        acts: &RoundedRows,
        row: usize,
        at: [usize; BLOCKS],
    ) -> Sums {
        let tables = Tables::new();
        let mut quads = [_mm512_setzero_si512(); 4];
        for (j, b) in at.into_iter().enumerate() {
            let acts = Block::new(acts, row, b);
            for i in 0..ROWS / 4 {
                let mut products = [_mm512_setzero_si512(); 4];
                for pair in 0..2 {
                    let place = j * ROWS + 4 * i + 2 * pair;
                    // SAFETY: the caller's blocks.
                    let [a, b] = unsafe { tables.unpack([places.at(place), places.at(place + 1)]) };
                    products[2 * pair] = acts.products(&a);
                    products[2 * pair + 1] = acts.products(&b);
                }
                quads[j * ROWS / 4 + i] = quad(products);
            }
        }
        // SAFETY: a block starts with its scale. Grid values are eight times the weights'.
        let d = unsafe { gather_f16(places, 0) };
        let d = _mm512_mul_ps(d, _mm512_set1_ps(0.125));
        Sums { total: whole_sums(quads), d, mins: None }
    }
}

/// 64 bytes.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// One block of activations, in the order of [`Unpacked`].
struct Block {
    codes: [[__m512i; 2]; 2],
    /// What takes the offset out of the products, in one dword of every lane.
    offsets: [__m512i; 2],
}

impl Block {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn new(acts: &RoundedRows, row: usize, b: usize) -> Self {
        let codes = &acts.codes(row)[256 * b..][..256];
        let sums = &acts.sums(row)[16 * b..][..16];
        // SAFETY: 256 codes are four vectors, 16 sums are 32 bytes.
        let (quarters, sums) = unsafe {
            let at = codes.as_ptr().cast::<u8>();
            let quarters = [load(at), load(at.add(64)), load(at.add(128)), load(at.add(192))];
            (quarters, _mm256_loadu_si256(sums.as_ptr().cast()))
        };
        let mut codes = [[quarters[0]; 2]; 2];
        for i in 0..2 {
            // Both vectors' lanes from two quarters, then from the other two.
            let first = _mm512_set1_epi64(4 * i as i64);
            let order = _mm512_add_epi64(_mm512_setr_epi64(0, 2, 8, 10, 1, 3, 9, 11), first);
            let low = _mm512_permutex2var_epi64(quarters[0], order, quarters[1]);
            let high = _mm512_permutex2var_epi64(quarters[2], order, quarters[3]);
            codes[i] = [
                _mm512_shuffle_i64x2::<0b01_00_01_00>(low, high),
                _mm512_shuffle_i64x2::<0b11_10_11_10>(low, high),
            ];
        }
        // A dword for every 32 weights, then one in every 64-bit lane.
        let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(-OFFSET));
        let sums = _mm512_cvtepu32_epi64(sums);
        let offsets =
            [_mm512_maskz_mov_epi64(0b0101_0101, sums), _mm512_maskz_mov_epi64(0b1010_1010, sums)];
        Self { codes, offsets }
    }

    /// Scaled products of one block, still to be added over the lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn products(&self, block: &Unpacked) -> __m512i {
        let mut totals = self.offsets;
        for i in 0..2 {
            for j in 0..2 {
                totals[i] = _mm512_dpbusd_epi32(totals[i], block.weights[i][j], self.codes[i][j]);
            }
            totals[i] = _mm512_mullo_epi32(totals[i], block.scales[i]);
        }
        _mm512_add_epi32(totals[0], totals[1])
    }
}
