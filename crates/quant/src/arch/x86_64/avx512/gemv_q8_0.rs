//! Formats with a scale for every 32 weights, against one or two activation rows.

use std::arch::x86_64::*;

use super::gemv::{BLOCKS, Near, OneRow, Places, ROWS, Sums};
use super::lanes::{both, gather_f16, half_sums, quad};
use crate::arch::x86_64::lanes::add_products;

/// Activations are words here: bytes are widened by shifts, even ones and odd ones apart.
pub(super) struct Q8_0;

impl OneRow for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn sums(places: &Places<'_>, near: &Near<'_>) -> Sums {
        let codes = near.acts.wide(near.row);
        let mut acts = [[_mm512_setzero_si512(); 2]; BLOCKS];
        for (acts, b) in acts.iter_mut().zip(near.at) {
            let codes = codes[32 * b..][..32].as_ptr();
            // SAFETY: 32 words are the 64 bytes of both vectors.
            unsafe {
                *acts = [
                    _mm512_broadcast_i64x4(_mm256_loadu_si256(codes.cast())),
                    _mm512_broadcast_i64x4(_mm256_loadu_si256(codes.add(16).cast())),
                ];
            }
        }
        // A vector holds a block of four in its low half and one of the four after in its high half.
        let mut products = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..8 {
            let place = i / 4 * 8 + i % 4;
            // SAFETY: a block is two bytes of scale and 32 weights.
            let bytes = unsafe { both(places.at(place).add(2), places.at(place + 4).add(2)) };
            let [even, odd] = acts[place / ROWS];
            let evens = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes));
            let total = _mm512_madd_epi16(evens, even);
            let odds = _mm512_srai_epi16::<8>(bytes);
            products[i / 4][i % 4] = add_products(total, odds, odd);
        }
        let quads = [quad(products[0]), quad(products[1])];
        // SAFETY: a block starts with its scale.
        Sums { total: half_sums(quads), d: unsafe { gather_f16(places, 0) }, mins: None }
    }
}

/// Codes index a table of integers that lie 12 above twice the weights.
pub(super) struct Mxfp4;

impl OneRow for Mxfp4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
    unsafe fn sums(places: &Places<'_>, near: &Near<'_>) -> Sums {
        let (codes, sums) = (near.acts.codes(near.row), near.acts.sums(near.row));
        let (mut acts, mut offsets) =
            ([_mm512_setzero_si512(); BLOCKS], [_mm512_setzero_si512(); BLOCKS]);
        for (j, b) in near.at.into_iter().enumerate() {
            let codes = codes[32 * b..][..32].as_ptr();
            // SAFETY: 32 codes are the vector's bytes.
            acts[j] = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(codes.cast()) });
            let sum = i32::from(sums[2 * b]) + i32::from(sums[2 * b + 1]);
            // One lane of the eight that are added.
            offsets[j] = _mm512_maskz_set1_epi32(0x0101, -12 * sum);
        }
        let table = _mm512_broadcast_i32x4(_mm_setr_epi8(
            12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0,
        ));
        let nibbles = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
        let mut products = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..8 {
            let place = i / 4 * 8 + i % 4;
            // SAFETY: a block is a byte of scale and 16 bytes of codes.
            let (low, high) = unsafe {
                let low = _mm_loadu_si128(places.at(place).add(1).cast());
                (low, _mm_loadu_si128(places.at(place + 4).add(1).cast()))
            };
            let bytes = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
            let order = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
            let bytes = _mm512_permutexvar_epi64(order, _mm512_castsi256_si512(bytes));
            let bytes = _mm512_srlv_epi64(bytes, nibbles);
            let bytes = _mm512_and_si512(bytes, _mm512_set1_epi8(15));
            let weights = _mm512_shuffle_epi8(table, bytes);
            products[i / 4][i % 4] =
                _mm512_dpbusd_epi32(offsets[place / ROWS], weights, acts[place / ROWS]);
        }
        let quads = [quad(products[0]), quad(products[1])];
        // SAFETY: a block starts with its scale.
        Sums { total: half_sums(quads), d: unsafe { half_ue8m0(places) }, mins: None }
    }
}

/// `2^(e - 128)` for the byte `e` at every place.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn half_ue8m0(places: &Places<'_>) -> __m512 {
    let mut bytes = _mm_setzero_si128();
    // SAFETY: promised by the caller.
    unsafe {
        bytes = _mm_insert_epi8::<0>(bytes, i32::from(*places.at(0)));
        bytes = _mm_insert_epi8::<1>(bytes, i32::from(*places.at(1)));
        bytes = _mm_insert_epi8::<2>(bytes, i32::from(*places.at(2)));
        bytes = _mm_insert_epi8::<3>(bytes, i32::from(*places.at(3)));
        bytes = _mm_insert_epi8::<4>(bytes, i32::from(*places.at(4)));
        bytes = _mm_insert_epi8::<5>(bytes, i32::from(*places.at(5)));
        bytes = _mm_insert_epi8::<6>(bytes, i32::from(*places.at(6)));
        bytes = _mm_insert_epi8::<7>(bytes, i32::from(*places.at(7)));
        bytes = _mm_insert_epi8::<8>(bytes, i32::from(*places.at(8)));
        bytes = _mm_insert_epi8::<9>(bytes, i32::from(*places.at(9)));
        bytes = _mm_insert_epi8::<10>(bytes, i32::from(*places.at(10)));
        bytes = _mm_insert_epi8::<11>(bytes, i32::from(*places.at(11)));
        bytes = _mm_insert_epi8::<12>(bytes, i32::from(*places.at(12)));
        bytes = _mm_insert_epi8::<13>(bytes, i32::from(*places.at(13)));
        bytes = _mm_insert_epi8::<14>(bytes, i32::from(*places.at(14)));
        bytes = _mm_insert_epi8::<15>(bytes, i32::from(*places.at(15)));
    }
    super::super::few::half_ue8m0(bytes)
}
