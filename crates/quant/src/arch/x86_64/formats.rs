//! Stored blocks of 256 (and MXFP4's 32) as vectors of unsigned bytes.

use std::arch::x86_64::*;

use crate::grids::IQ2_XXS;

/// What a block says once: its scales and where its weights are.
#[derive(Clone, Copy)]
pub(super) struct Header {
    /// A scale per 16 weights, i8.
    pub(super) scales: __m128i,
    /// A minimum per 16 weights, u8; zero where the format has none.
    pub(super) mins: __m128i,
    /// Eight dwords for the format's own use.
    pub(super) state: [i32; 8],
}

impl Header {
    /// Nothing yet.
    // SAFETY: vectors of integers hold any bits.
    pub(super) const ZERO: Self = unsafe { std::mem::zeroed() };
}

/// A format whose blocks unpack to unsigned bytes that lie `OFFSET` above the weights.
pub(super) trait Format {
    /// Weights in a block.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Distance of the unpacked bytes from the weights.
    const OFFSET: i16;
    /// Whether `dmin * mins` is subtracted.
    const MINS: bool;
    /// Whether both 16-weight halves of every 32 share a scale.
    const SCALES_OF_32: bool;
    /// Whether the unpacked weights have been multiplied by their scales.
    const FOLDED: bool = false;
    /// Runs of four weights per 32 whose products with int8 activations, less the offset, can be
    /// added in int16: each run's bound is below 2^15.
    const RUNS: &'static [usize];

    /// # Safety
    /// `block` must lead to a block of this format.
    unsafe fn header(block: *const u8) -> Header;

    /// The 32 weights of group `g`, plus the offset.
    ///
    /// # Safety
    /// `block` must lead to a block of this format, with this header.
    unsafe fn weights(block: *const u8, header: &Header, g: usize) -> __m256i;

    /// Products of the group's weights (plus the offset if `OFFSET_IN_PRODUCTS`) with `acts`, adjacent
    /// pairs added.
    ///
    /// # Safety
    /// As for `weights`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn products(block: *const u8, header: &Header, g: usize, acts: __m256i) -> __m256i {
        // SAFETY: as promised by the caller.
        _mm256_maddubs_epi16(unsafe { Self::weights(block, header, g) }, acts)
    }
    /// Whether `products` has the offset still in it.
    const OFFSET_IN_PRODUCTS: bool = Self::OFFSET != 0;

    /// The block's scale and its minimum's, as f32.
    ///
    /// # Safety
    /// `block` must lead to a block of this format.
    unsafe fn d(block: *const u8) -> (f32, f32);
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: the caller has 32 readable bytes there.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn f16(at: *const u8) -> f32 {
    // SAFETY: the caller has two readable bytes there.
    let bits = unsafe { at.cast::<u16>().read_unaligned() };
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

pub(super) struct Q2K;

impl Format for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const OFFSET: i16 = 0;
    const MINS: bool = true;
    const SCALES_OF_32: bool = false;
    const RUNS: &'static [usize] = &[4, 4];

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: a block starts with 16 bytes of scales and minima.
        let both = unsafe { _mm_loadu_si128(block.cast()) };
        let low = _mm_set1_epi8(15);
        let mins = _mm_and_si128(_mm_srli_epi16::<4>(both), low);
        Header { scales: _mm_and_si128(both, low), mins, state: [0; 8] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(block: *const u8, _: &Header, g: usize) -> __m256i {
        // SAFETY: 64 bytes of codes start at byte 16; `g` is below 8.
        let q = unsafe { load(block.add(16 + 32 * (g / 4))) };
        let shifted = _mm256_srl_epi16(q, _mm_cvtsi32_si128((g % 4 * 2) as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(3))
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn d(block: *const u8) -> (f32, f32) {
        // SAFETY: the scales are the block's last four bytes.
        unsafe { (f16(block.add(80)), f16(block.add(82))) }
    }
}

/// [`Q2K`] with scales (at most 15) multiplied into the weights (at most 3).
pub(super) struct Q2KFolded;

impl Format for Q2KFolded {
    const LEN: usize = Q2K::LEN;
    const BYTES: usize = Q2K::BYTES;
    const OFFSET: i16 = Q2K::OFFSET;
    const MINS: bool = Q2K::MINS;
    const SCALES_OF_32: bool = Q2K::SCALES_OF_32;
    const FOLDED: bool = true;
    /// More than two products would leave int16: this is not for AVX2.
    const RUNS: &'static [usize] = &[];

    /// The state is the scales, two of 16 weights to a dword.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: as promised by the caller; eight dwords are the vector's 32 bytes.
        unsafe {
            let mut header = Q2K::header(block);
            let pairs = _mm256_cvtepu16_epi32(header.scales);
            _mm256_storeu_si256(header.state.as_mut_ptr().cast(), pairs);
            header
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(block: *const u8, header: &Header, g: usize) -> __m256i {
        // SAFETY: as promised by the caller.
        let codes = unsafe { Q2K::weights(block, header, g) };
        let first =
            _mm256_setr_m128i(_mm_set1_epi16(0x8000_u16 as i16), _mm_set1_epi16(0x8001_u16 as i16));
        let scales = _mm256_shuffle_epi8(_mm256_set1_epi32(header.state[g]), first);
        // For each 16 weights, the multiples of their scale that the codes choose from.
        let multiples = _mm256_mullo_epi16(scales, _mm256_set1_epi32(0x0302_0100));
        _mm256_shuffle_epi8(multiples, codes)
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn d(block: *const u8) -> (f32, f32) {
        // SAFETY: as promised by the caller.
        unsafe { Q2K::d(block) }
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;
    const OFFSET: i16 = 0;
    const MINS: bool = true;
    const SCALES_OF_32: bool = true;
    const RUNS: &'static [usize] = &[8];

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: 12 bytes of packed scales start at byte 4.
        let [a, b, c] =
            [4, 8, 12].map(|at| unsafe { block.add(at).cast::<u32>().read_unaligned() });
        // Six bits each: the first four of both kinds lie plain, the last four are split in 4 and 2.
        let (low, high) = (0x3F3F_3F3F, 0x0303_0303);
        let scales = [a & low, c & 0x0F0F_0F0F | (a >> 6 & high) << 4];
        let mins = [b & low, c >> 4 & 0x0F0F_0F0F | (b >> 6 & high) << 4];
        // Each serves two runs of 16.
        let twice = |v: [u32; 2]| {
            let v = _mm_set_epi32(0, 0, v[1] as i32, v[0] as i32);
            _mm_unpacklo_epi8(v, v)
        };
        Header { scales: twice(scales), mins: twice(mins), state: [0; 8] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(block: *const u8, _: &Header, g: usize) -> __m256i {
        // SAFETY: 128 bytes of codes start at byte 16; `g` is below 8.
        let q = unsafe { load(block.add(16 + 32 * (g / 2))) };
        let shifted = _mm256_srl_epi16(q, _mm_cvtsi32_si128((g % 2 * 4) as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(15))
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn d(block: *const u8) -> (f32, f32) {
        // SAFETY: the scales are the block's first four bytes.
        unsafe { (f16(block), f16(block.add(2))) }
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const OFFSET: i16 = 32;
    const MINS: bool = false;
    const SCALES_OF_32: bool = false;
    const RUNS: &'static [usize] = &[4, 4];

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: 16 scales start at byte 192.
        let scales = unsafe { _mm_loadu_si128(block.add(192).cast()) };
        Header { scales, mins: _mm_setzero_si128(), state: [0; 8] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(block: *const u8, _: &Header, g: usize) -> __m256i {
        let (half, part) = (g / 4, g % 4);
        // SAFETY: 128 bytes of low parts, then 64 of high parts; `g` is below 8.
        let (low, high) = unsafe {
            (load(block.add(64 * half + part % 2 * 32)), load(block.add(128 + 32 * half)))
        };
        let shift = |v, by: usize| _mm256_srl_epi16(v, _mm_cvtsi32_si128(by as i32));
        let low = _mm256_and_si256(shift(low, part / 2 * 4), _mm256_set1_epi8(15));
        let high = _mm256_and_si256(shift(high, 2 * part), _mm256_set1_epi8(3));
        _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn d(block: *const u8) -> (f32, f32) {
        // SAFETY: the scale is the block's last two bytes.
        (unsafe { f16(block.add(208)) }, 0.0)
    }
}

pub(super) struct Iq2Xxs;

impl Iq2Xxs {
    /// Magnitudes of group `g` and a mask of its negative weights.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn grid(block: *const u8, header: &Header, g: usize) -> (__m256i, __m256i) {
        // SAFETY: eight bytes per group start at byte 2, the first four of them indices; `g` is below 8.
        let grid = unsafe {
            let at = |v| IQ2_XXS.as_ptr().add(usize::from(*block.add(2 + 8 * g + v))).cast::<f64>();
            let low = _mm_loadh_pd(_mm_load_sd(at(0)), at(1));
            _mm256_set_m128d(_mm_loadh_pd(_mm_load_sd(at(2)), at(3)), low)
        };
        // Byte `v` of the signs serves weights 8v..8v + 8: spread it over them, keep one bit in each.
        let spread = _mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        );
        let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let signs = _mm256_shuffle_epi8(_mm256_set1_epi32(header.state[g]), spread);
        let negative = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bits), bits);
        (_mm256_castpd_si256(grid), negative)
    }
}

impl Format for Iq2Xxs {
    const LEN: usize = 256;
    const BYTES: usize = 66;
    const OFFSET: i16 = 43;
    const MINS: bool = false;
    const SCALES_OF_32: bool = true;
    const RUNS: &'static [usize] = &[3, 3, 2];

    /// The state is the sign bytes: 7 stored bits each and the parity that makes them even.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: 64 bytes start at byte 2.
        let (low, high) = unsafe { (load(block.add(2)), load(block.add(34))) };
        // Every odd dword: four times seven bits of signs, four bits of scale.
        let odd =
            _mm256_shuffle_ps::<0b11_01_11_01>(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
        let rest = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(odd));

        let dwords = |bits: u32| _mm256_set1_epi32(bits as i32);
        let sevens = _mm256_or_si256(
            _mm256_or_si256(
                _mm256_and_si256(rest, dwords(0x7F)),
                _mm256_and_si256(_mm256_slli_epi32::<1>(rest), dwords(0x7F00)),
            ),
            _mm256_or_si256(
                _mm256_and_si256(_mm256_slli_epi32::<2>(rest), dwords(0x7F_0000)),
                _mm256_and_si256(_mm256_slli_epi32::<3>(rest), dwords(0x7F00_0000)),
            ),
        );
        // The parity of a byte is that of its nibbles' difference; odd ones get the eighth bit.
        let odd_nibbles = _mm256_set1_epi64x(0x8000_0080_0080_8000_u64 as i64);
        let odd_nibbles =
            _mm256_unpacklo_epi64(odd_nibbles, _mm256_set1_epi64x(0x0080_8000_8000_0080));
        let nibbles = _mm256_xor_si256(sevens, _mm256_srli_epi16::<4>(sevens));
        let nibbles = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
        let signs = _mm256_or_si256(sevens, _mm256_shuffle_epi8(odd_nibbles, nibbles));
        let mut state = [0i32; 8];
        // SAFETY: eight dwords are the vector's 32 bytes.
        unsafe { _mm256_storeu_si256(state.as_mut_ptr().cast(), signs) };

        let scales = _mm256_srli_epi32::<28>(rest);
        let scales = _mm256_or_si256(_mm256_add_epi32(scales, scales), _mm256_set1_epi32(1));
        let twice = _mm256_or_si256(scales, _mm256_slli_epi32::<8>(scales));
        let words = _mm256_packus_epi32(twice, twice);
        let scales = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(words));
        Header { scales, mins: _mm_setzero_si128(), state }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(block: *const u8, header: &Header, g: usize) -> __m256i {
        // SAFETY: as promised by the caller.
        let (grid, negative) = unsafe { Self::grid(block, header, g) };
        // Under the mask `!x + 44` is `43 - x`.
        let offset = _mm256_sub_epi8(_mm256_set1_epi8(43), negative);
        _mm256_add_epi8(_mm256_xor_si256(grid, negative), offset)
    }

    /// Signs go to the activations here: one operation fewer than the offset and its correction.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn products(block: *const u8, header: &Header, g: usize, acts: __m256i) -> __m256i {
        // SAFETY: as promised by the caller.
        let (grid, negative) = unsafe { Self::grid(block, header, g) };
        let signs = _mm256_or_si256(negative, _mm256_set1_epi8(1));
        _mm256_maddubs_epi16(grid, _mm256_sign_epi8(acts, signs))
    }
    const OFFSET_IN_PRODUCTS: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn d(block: *const u8) -> (f32, f32) {
        // SAFETY: the scale is the block's first two bytes.
        (unsafe { f16(block) } * 0.125, 0.0)
    }
}

pub(super) struct Mxfp4;

impl Format for Mxfp4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;
    const OFFSET: i16 = 12;
    const MINS: bool = false;
    const SCALES_OF_32: bool = true;
    const RUNS: &'static [usize] = &[8];

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn header(_: *const u8) -> Header {
        Header { scales: _mm_set1_epi8(1), mins: _mm_setzero_si128(), state: [0; 8] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(block: *const u8, _: &Header, _: usize) -> __m256i {
        // SAFETY: 16 bytes of codes start at byte 1.
        let q = unsafe { _mm_loadu_si128(block.add(1).cast()) };
        let q = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(q), _mm_srli_epi16::<4>(q));
        let doubled = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0,
        ));
        _mm256_shuffle_epi8(doubled, _mm256_and_si256(q, _mm256_set1_epi8(15)))
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn d(block: *const u8) -> (f32, f32) {
        // SAFETY: the scale is the block's first byte.
        (crate::arch::generic::half_ue8m0(unsafe { *block }), 0.0)
    }
}
