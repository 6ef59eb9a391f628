//! Moves between lanes that several kernels share.

use std::arch::x86_64::*;

use super::gemv::Places;

/// Four vectors into one: lane `i` of every 128 bits holds what the same bits of `v[i]` add up to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) fn quad(v: [__m512i; 4]) -> __m512i {
    let low =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let high =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high))
}

/// Sums of 16 whole vectors, four to a [`quad`], in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) fn whole_sums(quads: [__m512i; 4]) -> __m512i {
    half_sums([fold(quads[0], quads[1]), fold(quads[2], quads[3])])
}

/// The upper half of both vectors added to the lower one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) fn fold(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(
        _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b),
        _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b),
    )
}

/// Sums of 16 halves of vectors, four vectors to a [`quad`]: the low halves of the first four, their
/// high halves, the low ones of the other four, their high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) fn half_sums([a, b]: [__m512i; 2]) -> __m512i {
    _mm512_add_epi32(
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
    )
}

/// The lanes from `first` on, a multiple of four, in front.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) fn from_lane(v: __m512, first: usize) -> __m512 {
    match first {
        0 => v,
        4 => _mm512_shuffle_f32x4::<0b00_11_10_01>(v, v),
        8 => _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v),
        _ => _mm512_shuffle_f32x4::<0b10_01_00_11>(v, v),
    }
}

/// Sixteen half-precision numbers, one in each block, `skip` bytes after its start.
///
/// # Safety
/// There must be two readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn gather_f16(places: &Places<'_>, skip: usize) -> __m512 {
    // SAFETY: promised by the caller.
    let (low, high) = unsafe { (eight_words(places, 0, skip), eight_words(places, 8, skip)) };
    _mm512_cvtph_ps(_mm256_set_m128i(high, low))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
unsafe fn eight_words(places: &Places<'_>, first: usize, skip: usize) -> __m128i {
    // SAFETY: two readable bytes in each block, by the caller's promise.
    unsafe {
        _mm_setr_epi16(
            word(places.at(first).add(skip)),
            word(places.at(first + 1).add(skip)),
            word(places.at(first + 2).add(skip)),
            word(places.at(first + 3).add(skip)),
            word(places.at(first + 4).add(skip)),
            word(places.at(first + 5).add(skip)),
            word(places.at(first + 6).add(skip)),
            word(places.at(first + 7).add(skip)),
        )
    }
}

#[inline]
unsafe fn word(at: *const u8) -> i16 {
    // SAFETY: two readable bytes, by the caller's promise.
    unsafe { at.cast::<i16>().read_unaligned() }
}

/// Sixteen half-precision numbers, `skip` bytes after each of the places.
///
/// # Safety
/// There must be two readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn sixteen_f16(places: &[*const u8; 16], skip: usize) -> __m512 {
    let mut words = [0i16; 16];
    for (word, place) in words.iter_mut().zip(places) {
        // SAFETY: promised by the caller.
        *word = unsafe { self::word(place.add(skip)) };
    }
    // SAFETY: the array has 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(words.as_ptr().cast()) })
}

/// 64 bytes.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// 32 bytes from each of two places.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn both(low: *const u8, high: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe {
        let low = _mm256_loadu_si256(low.cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_loadu_si256(high.cast()))
    }
}

/// The same address, of which the compiler does not know that it is the same. It would load what lies there once
/// for all rows, into more registers than there are.
#[inline]
pub(super) fn unnamed(at: *const u8) -> *const u8 {
    let zero: usize;
    // SAFETY: one instruction on one register.
    unsafe { std::arch::asm!("xor {0:e}, {0:e}", out(reg) zero, options(nomem, nostack)) };
    at.wrapping_add(zero)
}
