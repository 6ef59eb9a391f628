//! IQ2_XXS in registers: the codebook's 256 entries of eight magnitudes out of three are two tables of 256
//! bytes, four codes of two bits to a byte, which eight registers hold.
//!
//! Weights are not put into their order. A vector of 64 indices, two blocks of a row, becomes eight vectors:
//! the first components of all 64 entries, the second ones, and so on. The four indices of one scale then lie
//! in one dword of every vector, so that eight multiplications add up in it and one more scales the sums.
//! Activations are brought into the same order once for all rows.

use std::arch::x86_64::*;

use super::gemv::{BLOCKS, Near, OneRow, Places, ROWS, Sums};
use super::lanes::{fold, gather_f16, half_sums, load, sixteen_f16, unnamed};
use crate::arch::x86_64::formats;
use crate::arch::x86_64::gemm::{self, Panel, SIDE, bytes_of};
use crate::dot::{Line, RoundedRows, Scratch, Weights};
use crate::grids::IQ2_XXS;

/// Distance of the unpacked bytes from the weights.
const OFFSET: i16 = 43;

/// Codes of components 0 to 3 of every entry, and of components 4 to 7: 0, 1, 2 for 8, 25, 43.
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
        codes[component / 4][entry] |= code << (2 * (component % 4));
        i += 1;
    }
    codes
};

/// The weight, [`OFFSET`] above what it is, for six bits of which two from `code` on are the code and one is the
/// sign.
const fn weights(code: usize, sign: usize) -> [u8; 64] {
    let mut weights = [0; 64];
    let mut i = 0;
    while i < 64 {
        let magnitude = [8, 25, 43, 0][i >> code & 3];
        weights[i] = if i >> sign & 1 == 0 { 43 + magnitude } else { 43 - magnitude };
        i += 1;
    }
    weights
}

/// For the four components of a byte of codes: two are looked up with their signs in bits 4 and 5, two, after a
/// shift, with theirs in bits 0 and 1.
static WEIGHTS: [[u8; 64]; 4] = [weights(0, 4), weights(2, 5), weights(2, 0), weights(4, 1)];

/// As matrices of bits: take the signs of components 0 to 3, and of 4 to 7, to where [`WEIGHTS`] wants them. Seven
/// are stored; the eighth makes their number even.
const SIGNS: [i64; 2] = [
    i64::from_le_bytes([0, 0, 0x02, 0x01, 0, 0, 0x08, 0x04]),
    i64::from_le_bytes([0, 0, 0x20, 0x10, 0, 0, 0x7F, 0x40]),
];

/// Turns eight rows of eight bytes into columns.
static TURN: [u8; 64] = {
    let mut turn = [0; 64];
    let mut i = 0;
    while i < 64 {
        turn[i] = (i % 8 * 8 + i / 8) as u8;
        i += 1;
    }
    turn
};

/// What unpacking takes, in registers as far as there are some.
struct Tables {
    codes: [[__m512i; 4]; 2],
    weights: [__m512i; 4],
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    fn new() -> Self {
        let [first, second] = &CODES;
        // SAFETY: every offset has 64 bytes behind it.
        unsafe {
            let four =
                |t: *const u8| [load(t), load(t.add(64)), load(t.add(128)), load(t.add(192))];
            Self {
                codes: [four(first.as_ptr()), four(second.as_ptr())],
                weights: four(WEIGHTS.as_ptr().cast()),
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

    /// Two blocks: vectors of components 0 to 7, and the scales of their dwords. In every 128 bits two dwords belong
    /// to the first block, two to the second.
    ///
    /// # Safety
    /// Both places must lead to blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn unpack(&self, blocks: [*const u8; 2]) -> ([__m512i; 8], __m512i) {
        // SAFETY: 64 bytes start at byte 2: eight times four indices and a dword of signs and scale.
        let (a, b) = unsafe { (load(blocks[0].add(2)), load(blocks[1].add(2))) };
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let index = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
        let rest = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
        let upper = _mm512_movepi8_mask(index);
        let sevens = _mm512_set1_epi64(i64::from_le_bytes([0, 7, 14, 21, 32, 39, 46, 53]));
        let sevens = _mm512_multishift_epi64_epi8(sevens, rest);
        let mut weights = [index; 8];
        for half in 0..2 {
            let codes = Self::pick(&self.codes[half], index, upper);
            let signs = _mm512_gf2p8affine_epi64_epi8::<0>(sevens, _mm512_set1_epi64(SIGNS[half]));
            // Bits of codes where the first operand has ones, else bits of signs.
            let (low, high) = (_mm512_set1_epi8(0x0F), _mm512_set1_epi8(0x3C));
            let shifted = _mm512_srli_epi16::<2>(codes);
            let places = [
                _mm512_ternarylogic_epi32::<0xCA>(low, codes, signs),
                _mm512_ternarylogic_epi32::<0xCA>(high, shifted, signs),
            ];
            for i in 0..4 {
                weights[4 * half + i] = _mm512_permutexvar_epi8(places[i / 2], self.weights[i]);
            }
        }
        let scales = _mm512_or_si512(_mm512_srli_epi32::<27>(rest), _mm512_set1_epi32(1));
        (weights, scales)
    }

    /// Scaled products of two blocks, still to be added over the lanes.
    ///
    /// # Safety
    /// Both places must lead to blocks, and `near` to the activations' nine lines.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn products(&self, blocks: [*const u8; 2], near: *const u8) -> __m512i {
        // SAFETY: as promised by the caller.
        let (weights, scales) = unsafe { self.unpack(blocks) };
        // SAFETY: eight lines of codes, then what takes the offset out of the products.
        let mut totals = unsafe { [load(near.add(512)), _mm512_setzero_si512()] };
        for (i, weights) in weights.into_iter().enumerate() {
            // SAFETY: one of the lines of codes.
            let acts = unsafe { load(near.add(64 * i)) };
            totals[i % 2] = _mm512_dpbusd_epi32(totals[i % 2], weights, acts);
        }
        _mm512_mullo_epi32(_mm512_add_epi32(totals[0], totals[1]), scales)
    }
}

/// Unpacks a panel, of every four groups of eight weights the first ones together, then the second ones, and so on.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn pack(w: &Weights<'_>, panel: &Panel, scratch: &mut Scratch) {
    const LINES: usize = 8 * 8;
    const META: usize = gemm::meta_bytes::<formats::Iq2Xxs>();
    let n_blocks = panel.cols / 256;
    let (weights, meta) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    let tables = Tables::new();
    // Vectors of pairs of rows: eight of weights, one of scales. All are written for every block.
    let mut pairs = [[_mm512_setzero_si512(); 8]; 9];
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut rows = panel.sixteen(w, side);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            // SAFETY: whole blocks on one side; on the other `at` counts blocks of 16 rows, of which the buffers
            // hold `PANEL_ROWS / 16 * PANEL_COLS / 256`.
            unsafe {
                let meta = meta.add(at * META);
                let d = _mm512_mul_ps(sixteen_f16(&rows, 0), _mm512_set1_ps(0.125));
                _mm512_storeu_ps(meta.add(META - 128).cast(), d);
                for p in 0..8 {
                    let (weights, scales) = tables.unpack([rows[2 * p], rows[2 * p + 1]]);
                    for (pairs, weights) in pairs.iter_mut().zip(weights) {
                        pairs[p] = weights;
                    }
                    // Twice, as words.
                    pairs[8][p] = _mm512_or_si512(scales, _mm512_slli_epi32::<16>(scales));
                }
                let weights = weights.add(at * LINES * 64);
                for (c, pairs) in pairs.iter().enumerate().take(8) {
                    for (s, line) in sides(pairs).into_iter().enumerate() {
                        _mm512_storeu_si512(weights.add(64 * (8 * s + c)).cast(), line);
                    }
                }
                for (s, line) in sides(&pairs[8]).into_iter().enumerate() {
                    _mm512_storeu_si512(meta.add(64 * s).cast(), line);
                }
            }
            for row in &mut rows {
                *row = row.wrapping_add(66);
            }
        }
    }
}

/// Vectors of two rows each, as [`Tables::unpack`] has them, into one of 16 rows for each scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
fn sides(pairs: &[__m512i; 8]) -> [__m512i; 8] {
    let mut lines = *pairs;
    for odd in 0..2 {
        // In every 128 bits four rows with one scale, which are two scales further in the next 128.
        let mut fours = [pairs[0]; 4];
        for (i, four) in fours.iter_mut().enumerate() {
            let a = _mm512_castsi512_ps(pairs[2 * i]);
            let b = _mm512_castsi512_ps(pairs[2 * i + 1]);
            *four = _mm512_castps_si512(if odd == 0 {
                _mm512_shuffle_ps::<0b10_00_10_00>(a, b)
            } else {
                _mm512_shuffle_ps::<0b11_01_11_01>(a, b)
            });
        }
        let [a, b, c, d] = fours;
        let (low, more) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        lines[odd] = _mm512_shuffle_i32x4::<0x88>(low, more);
        lines[2 + odd] = _mm512_shuffle_i32x4::<0xDD>(low, more);
        let (high, more) = (_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(c, d));
        lines[4 + odd] = _mm512_shuffle_i32x4::<0x88>(high, more);
        lines[6 + odd] = _mm512_shuffle_i32x4::<0xDD>(high, more);
    }
    lines
}

pub(super) struct Iq2Xxs;

impl OneRow for Iq2Xxs {
    const LEN: usize = 256;
    const BYTES: usize = 66;
    const LINES: usize = 9;

    /// Line `c` gets component `c` of what every index stands for; in each 128 bits eight are the first block's,
    /// eight the second one's. The last line has what takes the offset out of the products.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn arrange(acts: &RoundedRows, row: usize, at: [usize; BLOCKS], lines: &mut [Line]) {
        for (j, b) in at.into_iter().enumerate() {
            let codes = acts.codes(row)[256 * b..][..256].as_chunks::<64>().0;
            for (lane, codes) in codes.iter().enumerate() {
                // SAFETY: both sides have 64 bytes.
                let components = unsafe {
                    let codes = _mm512_loadu_si512(codes.as_ptr().cast());
                    let mut components = [[0u8; 8]; 8];
                    let turned = _mm512_permutexvar_epi8(load(TURN.as_ptr()), codes);
                    _mm512_storeu_si512(components.as_mut_ptr().cast(), turned);
                    components
                };
                for (line, component) in lines.iter_mut().zip(components) {
                    line.0[16 * lane + 8 * j..][..8].copy_from_slice(&component);
                }
            }
            let sums = &acts.sums(row)[16 * b..][..16];
            for (i, pair) in sums.as_chunks::<2>().0.iter().enumerate() {
                let offset = -i32::from(OFFSET) * (i32::from(pair[0]) + i32::from(pair[1]));
                let place = 16 * (i / 2) + 8 * j + 4 * (i % 2);
                lines[8].0[place..place + 4].copy_from_slice(&offset.to_le_bytes());
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn sums(places: &Places<'_>, near: &Near<'_>) -> Sums {
        let tables = Tables::new();
        let acts = near.lines.as_ptr().cast::<u8>();
        let mut pairs = [_mm512_setzero_si512(); ROWS / 2];
        for (i, pair) in pairs.iter_mut().enumerate() {
            // SAFETY: the caller's blocks and lines.
            let (a, b) = unsafe {
                (
                    tables.products([places.at(2 * i), places.at(ROWS + 2 * i)], unnamed(acts)),
                    tables.products(
                        [places.at(2 * i + 1), places.at(ROWS + 2 * i + 1)],
                        unnamed(acts),
                    ),
                )
            };
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            let even = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
            let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
            // In each 128 bits: both blocks of one row, both of the next.
            *pair = _mm512_add_epi32(even, odd);
        }
        let total = half_sums([fold(pairs[0], pairs[1]), fold(pairs[2], pairs[3])]);
        let order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        // SAFETY: a block starts with its scale. Grid values are eight times the weights'.
        let d = unsafe { gather_f16(places, 0) };
        let d = _mm512_mul_ps(d, _mm512_set1_ps(0.125));
        Sums { total: _mm512_permutexvar_epi32(order, total), d, mins: None }
    }
}
