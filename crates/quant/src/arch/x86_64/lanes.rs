//! Moves between lanes that several kernels share.

use std::arch::asm;
use std::arch::x86_64::*;

/// Lane `i` of the result is the sum of the lanes of `v[i]`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_each(v: &[__m256i; 8]) -> __m256i {
    let low = quad(pair(v[0], v[1]), pair(v[2], v[3]));
    let high = quad(pair(v[4], v[5]), pair(v[6], v[7]));
    _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(low, high),
        _mm256_permute2x128_si256::<0x31>(low, high),
    )
}

/// Adds two vectors into one that keeps their sums in alternate lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn pair(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}

/// As [`pair`], for lanes of 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn quad(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
}

/// The transpose of 8 rows of 8 dwords.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose(r: &[__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut quads = [_mm256_setzero_si256(); 8];
    for half in 0..2 {
        for i in 0..2 {
            let (a, b) = (pairs[4 * half + i], pairs[4 * half + 2 + i]);
            quads[4 * half + 2 * i] = _mm256_unpacklo_epi64(a, b);
            quads[4 * half + 2 * i + 1] = _mm256_unpackhi_epi64(a, b);
        }
    }
    let mut columns = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        columns[i] = _mm256_permute2x128_si256::<0x20>(quads[i], quads[4 + i]);
        columns[4 + i] = _mm256_permute2x128_si256::<0x31>(quads[i], quads[4 + i]);
    }
    columns
}

/// Eight half-precision numbers, one at each pointer.
///
/// # Safety
/// Each pointer must lead to two readable bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn gather_f16(at: [*const u8; 8]) -> __m256 {
    // No closure: the compiler does not inline one into a function with these features.
    // SAFETY: promised by the caller.
    unsafe {
        _mm256_cvtph_ps(_mm_setr_epi16(
            word(at[0]),
            word(at[1]),
            word(at[2]),
            word(at[3]),
            word(at[4]),
            word(at[5]),
            word(at[6]),
            word(at[7]),
        ))
    }
}

#[inline]
unsafe fn word(at: *const u8) -> i16 {
    // SAFETY: two readable bytes, by the caller's promise.
    unsafe { at.cast::<i16>().read_unaligned() }
}

/// The float law's sum of eight lanes: `((0+4)+(2+6)) + ((1+5)+(3+7))`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn reduce(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// [`reduce`] of eight vectors, a lane each.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn reduce_each(v: &[__m256; 8]) -> __m256 {
    // Lanes 0 to 3 and 4 to 7 of vector `i` meet lane by lane, beside those of vector `i + 1`.
    let mut fours = [_mm256_setzero_ps(); 4];
    for (i, four) in fours.iter_mut().enumerate() {
        let (a, b) = (v[2 * i], v[2 * i + 1]);
        let low = _mm256_permute2f128_ps::<0x20>(a, b);
        *four = _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(a, b));
    }
    // Then the first and the second two of every four; each half holds every other vector's.
    let mut twos = [_mm256_setzero_ps(); 2];
    for (i, two) in twos.iter_mut().enumerate() {
        let (a, b) = (_mm256_castps_pd(fours[2 * i]), _mm256_castps_pd(fours[2 * i + 1]));
        let low = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        *two = _mm256_add_ps(low, _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    let even = _mm256_shuffle_ps::<0x88>(twos[0], twos[1]);
    let sums = _mm256_add_ps(even, _mm256_shuffle_ps::<0xDD>(twos[0], twos[1]));
    // Vectors 0, 2, 4, 6, 1, 3, 5, 7.
    _mm256_permutevar8x32_ps(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// Even and odd bytes, widened to words.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn widen(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
}

/// `total + a · b`, products of words two to a dword.
///
/// Of the intrinsic the compiler makes a multiplication and an addition where sums form a chain, unless it is told
/// which processor it compiles for. The addition then takes turns from the multipliers.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn add_products(mut total: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: it reads and writes these registers alone.
    unsafe {
        asm!(
            "vpdpwssd {total}, {a}, {b}",
            total = inout(zmm_reg) total,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    total
}

/// As [`add_products`], with the dword at `b` for every lane.
///
/// # Safety
/// It must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn add_products_with(mut total: __m512i, a: __m512i, b: *const i32) -> __m512i {
    // SAFETY: it reads the caller's dword and these registers, and writes one of them.
    unsafe {
        asm!(
            "vpdpwssd {total}, {a}, dword ptr [{b}]{{1to16}}",
            total = inout(zmm_reg) total,
            a = in(zmm_reg) a,
            b = in(reg) b,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    total
}
