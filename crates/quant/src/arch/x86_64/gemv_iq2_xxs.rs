//! IQ2_XXS with one or two activation rows. A block takes 66 bytes and some two hundred
//! instructions, so it is bound by instructions where other formats wait for memory: everything here
//! is arranged for few of them, and for an even load on loads, shuffles and arithmetic.

use std::arch::x86_64::*;

use super::gemv::{ROWS, prefetch_next, rows_from, store};
use super::lanes::{gather_f16, sum_each};
use crate::dot::{Out, RoundedRows, Weights, picked};
use crate::grids::IQ2_XXS;

const LEN: usize = 256;
const BYTES: usize = 66;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn iq2_xxs(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
) {
    let n_blocks = w.cols() / LEN;
    for first in (0..w.rows()).step_by(ROWS) {
        let rows = rows_from(w, first);
        for n in 0..out.rows() {
            let at = picked(index, n);
            let (codes, scales) = (acts.codes(at), acts.scales(at));
            let mut acc = _mm256_setzero_ps();
            for (b, scale) in scales.iter().enumerate().take(n_blocks) {
                prefetch_next(w, first, b * ROWS * BYTES, BYTES);
                // SAFETY: `w` has `n_blocks` blocks of 66 bytes, `acts` as many of 256 codes.
                let (total, d) = unsafe {
                    let blocks = rows.map(|row| row.add(b * BYTES));
                    let codes = codes.as_ptr().add(b * LEN);
                    let mut totals = [_mm256_setzero_si256(); ROWS];
                    // A block's signs take a chain of a dozen operations: begun a row ahead, they
                    // are there when they are needed.
                    let mut ahead = signs(blocks[0]);
                    for r in 0..ROWS {
                        let signs = std::mem::replace(&mut ahead, signs(blocks[(r + 1) % ROWS]));
                        totals[r] = block_sum(blocks[r], signs, codes);
                    }
                    (sum_each(&totals), gather_f16(blocks))
                };
                // Grid values are eight times the weights'.
                let d = _mm256_mul_ps(d, _mm256_set1_ps(0.125));
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(*scale));
                acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), scale, acc);
            }
            store(acc, out, n, first);
        }
    }
}

/// What a block says beside its grid indices.
struct Signs {
    /// A byte for every eight weights, of which a set bit means negative.
    bytes: __m256i,
    /// A scale for every 32 weights, as a pair of equal words.
    scales: __m256i,
}

/// # Safety
/// `block` must lead to a block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn signs(block: *const u8) -> Signs {
    // SAFETY: 64 bytes start at byte 2.
    let (low, high) =
        unsafe { (_mm256_loadu_ps(block.add(2).cast()), _mm256_loadu_ps(block.add(34).cast())) };
    // Every odd dword: four times seven bits of signs, four bits of scale.
    let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(low, high));
    let odd = _mm256_castpd_si256(_mm256_permute4x64_pd::<0b11_01_10_00>(odd));
    let mask = |v, bits: u32| _mm256_and_si256(v, _mm256_set1_epi32(bits as i32));
    let sevens = _mm256_or_si256(
        _mm256_or_si256(mask(odd, 0x7F), mask(_mm256_add_epi32(odd, odd), 0x7F00)),
        _mm256_or_si256(
            mask(_mm256_slli_epi32::<2>(odd), 0x7F_0000),
            mask(_mm256_slli_epi32::<3>(odd), 0x7F00_0000),
        ),
    );
    // The parity of a byte is that of its nibbles' difference; odd ones get the eighth bit.
    let odd_nibbles = _mm256_broadcastsi128_si256(_mm_set_epi64x(
        0x0080_8000_8000_0080,
        0x8000_0080_0080_8000_u64 as i64,
    ));
    let nibbles = _mm256_xor_si256(sevens, _mm256_srli_epi16::<4>(sevens));
    let nibbles = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
    let bytes = _mm256_or_si256(sevens, _mm256_shuffle_epi8(odd_nibbles, nibbles));
    // Twice the four bits and one more.
    let scales = _mm256_or_si256(_mm256_srli_epi32::<27>(odd), _mm256_set1_epi32(1));
    let scales = _mm256_or_si256(scales, _mm256_slli_epi32::<16>(scales));
    Signs { bytes, scales }
}

/// Scaled products of one block, still to be added over the lanes.
///
/// # Safety
/// `block` must lead to a block, `codes` to its 256 activations.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_sum(block: *const u8, signs: Signs, codes: *const i8) -> __m256i {
    // SAFETY: as promised by the caller; the halves are those of this block.
    unsafe {
        let low = half_sum(
            block.add(2),
            codes,
            _mm256_permute4x64_epi64::<0b01_00_01_00>(signs.bytes),
            _mm256_permute4x64_epi64::<0b01_00_01_00>(signs.scales),
        );
        let high = half_sum(
            block.add(34),
            codes.add(128),
            _mm256_permute4x64_epi64::<0b11_10_11_10>(signs.bytes),
            _mm256_permute4x64_epi64::<0b11_10_11_10>(signs.scales),
        );
        _mm256_add_epi32(low, high)
    }
}

/// As `block_sum`, for 128 weights; `signs` and `scales` are theirs, twice.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_sum(
    indices: *const u8,
    codes: *const i8,
    signs: __m256i,
    scales: __m256i,
) -> __m256i {
    // SAFETY: 32 bytes of indices and signs, 128 codes.
    unsafe {
        let a = group(indices, codes, spread::<0>(signs));
        let b = group(indices.add(8), codes.add(32), spread::<4>(signs));
        let c = group(indices.add(16), codes.add(64), spread::<8>(signs));
        let d = group(indices.add(24), codes.add(96), spread::<12>(signs));
        let ab = _mm256_add_epi32(
            _mm256_madd_epi16(a, _mm256_shuffle_epi32::<0b00_00_00_00>(scales)),
            _mm256_madd_epi16(b, _mm256_shuffle_epi32::<0b01_01_01_01>(scales)),
        );
        let cd = _mm256_add_epi32(
            _mm256_madd_epi16(c, _mm256_shuffle_epi32::<0b10_10_10_10>(scales)),
            _mm256_madd_epi16(d, _mm256_shuffle_epi32::<0b11_11_11_11>(scales)),
        );
        _mm256_add_epi32(ab, cd)
    }
}

/// Sign bytes `FIRST..FIRST + 4`, each over the eight weights that it serves.
#[inline]
#[target_feature(enable = "avx2")]
fn spread<const FIRST: i64>(signs: __m256i) -> __m256i {
    let byte = |v: i64| (FIRST + v) * 0x0101_0101_0101_0101;
    _mm256_shuffle_epi8(signs, _mm256_setr_epi64x(byte(0), byte(1), byte(2), byte(3)))
}

/// Products of 32 weights with their activations, adjacent pairs added: at most 2 · 43 · 127.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group(indices: *const u8, codes: *const i8, signs: __m256i) -> __m256i {
    // Bit `v` of its byte is a weight's sign. With these added, a set bit makes the byte negative and
    // a clear one leaves it above zero, which is all that `vpsignb` looks at.
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let to_sign = _mm256_set1_epi64x(0x0140_6070_787C_7E7F);
    let signs = _mm256_add_epi8(_mm256_and_si256(signs, bits), to_sign);
    // SAFETY: four indices and 32 codes are the caller's.
    unsafe {
        let codes = _mm256_loadu_si256(codes.cast());
        // The signs go to the activations, so that the grid's bytes stay unsigned.
        _mm256_maddubs_epi16(grid(indices), _mm256_sign_epi8(codes, signs))
    }
}

/// The magnitudes that four indices choose.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn grid(indices: *const u8) -> __m256i {
    // Volatile: merged into a vector load, each index would take two instructions to come out again.
    // SAFETY: four indices are the caller's, and the table has an entry for each byte.
    unsafe {
        let at = |v| IQ2_XXS.as_ptr().add(usize::from(indices.add(v).read_volatile())).cast();
        let low = _mm_loadh_pd(_mm_load_sd(at(0)), at(1));
        let high = _mm_loadh_pd(_mm_load_sd(at(2)), at(3));
        _mm256_castpd_si256(_mm256_set_m128d(high, low))
    }
}
