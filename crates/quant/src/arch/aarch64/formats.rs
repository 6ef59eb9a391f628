//! Stored blocks as vectors of signed bytes.

use std::arch::aarch64::*;

use crate::grids::IQ2_XXS;

/// What a block says once.
pub(super) struct Header {
    /// Scales in the order of the weights, four a vector; `Format::SUBS` of them are used.
    pub(super) scales: [int32x4_t; 4],
    /// A minimum per 16 weights; zero where the format has none.
    pub(super) mins: int8x16_t,
    /// For the format's own use.
    state: [uint8x16_t; 2],
}

impl Header {
    #[inline]
    #[target_feature(enable = "neon")]
    fn empty() -> Self {
        let zero = vdupq_n_s32(0);
        Self { scales: [zero; 4], mins: vdupq_n_s8(0), state: [vdupq_n_u8(0); 2] }
    }
}

/// A format with integer products.
pub(super) trait Format {
    /// Weights in a block.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Scales inside a block that are left to be applied: one per 16 or 32 weights, or none.
    const SUBS: usize;
    /// Whether `dmin * mins` is subtracted.
    const MINS: bool;
    /// Whether activations are words; otherwise they are bytes.
    const WIDE: bool = false;

    /// # Safety
    /// `block` must lead to a block of this format.
    unsafe fn header(block: *const u8) -> Header;

    /// Group `G` of the four times 32 weights in the `half`-th half of a block, times those scales that
    /// are not left. A block of 32 is group 0 of half 0.
    ///
    /// # Safety
    /// `block` must lead to a block of this format with this header that has the group.
    unsafe fn weights<const G: usize>(
        block: *const u8,
        header: &Header,
        half: usize,
    ) -> [int8x16_t; 2];

    /// The scales of four blocks and of their minima.
    ///
    /// # Safety
    /// Each pointer must lead to a block of this format.
    unsafe fn d(blocks: [*const u8; 4]) -> [float32x4_t; 2];
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(at: *const u8) -> uint8x16_t {
    // SAFETY: the caller has 16 readable bytes there.
    unsafe { vld1q_u8(at) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn pair(at: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: the caller has 32 readable bytes there.
    unsafe { [load(at), load(at.add(16))] }
}

/// Four half-precision numbers, one at byte `at` of each block.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(blocks: [*const u8; 4], at: usize) -> float32x4_t {
    // SAFETY: the caller has two readable bytes there.
    let [a, b, c, d] = blocks.map(|block| unsafe { block.add(at).cast::<u16>().read_unaligned() });
    let bits = vset_lane_u16::<0>(a, vdup_n_u16(0));
    let bits = vset_lane_u16::<1>(b, bits);
    let bits = vset_lane_u16::<2>(c, bits);
    let bits = vset_lane_u16::<3>(d, bits);
    vcvt_f32_f16(vreinterpret_f16_u16(bits))
}

/// Bytes shifted right by `by`.
#[inline]
#[target_feature(enable = "neon")]
fn shift_right(v: uint8x16_t, by: usize) -> uint8x16_t {
    vshlq_u8(v, vdupq_n_s8(-(by as i8)))
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> float32x4_t {
    vdupq_n_f32(0.0)
}

pub(super) struct Q8_0;

impl Format for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const SUBS: usize = 0;
    const MINS: bool = false;
    const WIDE: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn header(_: *const u8) -> Header {
        Header::empty()
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn weights<const G: usize>(block: *const u8, _: &Header, _: usize) -> [int8x16_t; 2] {
        // SAFETY: the scale is followed by 32 bytes.
        unsafe { [vld1q_s8(block.add(2).cast()), vld1q_s8(block.add(18).cast())] }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn d(blocks: [*const u8; 4]) -> [float32x4_t; 2] {
        // SAFETY: the scale is the block's first two bytes.
        [unsafe { halves(blocks, 0) }, zero()]
    }
}

pub(super) struct Q2K;

impl Format for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    /// A weight (at most 3) times its scale (at most 15) is a byte still.
    const SUBS: usize = 0;
    const MINS: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: a block starts with 16 bytes of scales and minima.
        let both = unsafe { load(block) };
        let mut header = Header::empty();
        header.mins = vreinterpretq_s8_u8(vshrq_n_u8::<4>(both));
        header.state[0] = vandq_u8(both, vdupq_n_u8(15));
        header
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn weights<const G: usize>(
        block: *const u8,
        header: &Header,
        half: usize,
    ) -> [int8x16_t; 2] {
        // SAFETY: 64 bytes of codes start at byte 16.
        let codes = unsafe { pair(block.add(16 + 32 * half)) };
        std::array::from_fn(|i| {
            let codes = vandq_u8(shift_right(codes[i], 2 * G), vdupq_n_u8(3));
            let scale = vqtbl1q_u8(header.state[0], vdupq_n_u8((8 * half + 2 * G + i) as u8));
            vreinterpretq_s8_u8(vmulq_u8(codes, scale))
        })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn d(blocks: [*const u8; 4]) -> [float32x4_t; 2] {
        // SAFETY: the scales are the block's last four bytes.
        unsafe { [halves(blocks, 80), halves(blocks, 82)] }
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;
    const SUBS: usize = 8;
    const MINS: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: 12 bytes of packed scales start at byte 4.
        let [a, b, c] =
            [4, 8, 12].map(|at| unsafe { block.add(at).cast::<u32>().read_unaligned() });
        // Six bits each: the first four of both kinds lie plain, the last four are split in 4 and 2.
        let (low, high) = (0x3F3F_3F3F, 0x0303_0303);
        let eight = |first: u32, last: u32| vcreate_u8(u64::from(first) | u64::from(last) << 32);
        let scales = eight(a & low, c & 0x0F0F_0F0F | (a >> 6 & high) << 4);
        let mins = eight(b & low, c >> 4 & 0x0F0F_0F0F | (b >> 6 & high) << 4);
        let mut header = Header::empty();
        let words = vreinterpretq_s16_u16(vmovl_u8(scales));
        header.scales[0] = vmovl_s16(vget_low_s16(words));
        header.scales[1] = vmovl_high_s16(words);
        let mins = vcombine_u8(mins, mins);
        header.mins = vreinterpretq_s8_u8(vzip1q_u8(mins, mins));
        header
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn weights<const G: usize>(block: *const u8, _: &Header, half: usize) -> [int8x16_t; 2] {
        // SAFETY: 128 bytes of codes start at byte 16.
        let codes = unsafe { pair(block.add(16 + 64 * half + 32 * (G / 2))) };
        codes.map(|codes| {
            let nibbles = vandq_u8(shift_right(codes, G % 2 * 4), vdupq_n_u8(15));
            vreinterpretq_s8_u8(nibbles)
        })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn d(blocks: [*const u8; 4]) -> [float32x4_t; 2] {
        // SAFETY: the scales are the block's first four bytes.
        unsafe { [halves(blocks, 0), halves(blocks, 2)] }
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const SUBS: usize = 16;
    const MINS: bool = false;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn header(block: *const u8) -> Header {
        // SAFETY: 16 scales start at byte 192.
        let scales = unsafe { vld1q_s8(block.add(192).cast()) };
        let (low, high) = (vmovl_s8(vget_low_s8(scales)), vmovl_high_s8(scales));
        let mut header = Header::empty();
        header.scales = [
            vmovl_s16(vget_low_s16(low)),
            vmovl_high_s16(low),
            vmovl_s16(vget_low_s16(high)),
            vmovl_high_s16(high),
        ];
        header
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn weights<const G: usize>(block: *const u8, _: &Header, half: usize) -> [int8x16_t; 2] {
        // SAFETY: 128 bytes of low parts, then 64 of high parts.
        let (low, high) = unsafe {
            (pair(block.add(64 * half + 32 * (G % 2))), pair(block.add(128 + 32 * half)))
        };
        std::array::from_fn(|i| {
            let low = vandq_u8(shift_right(low[i], G / 2 * 4), vdupq_n_u8(15));
            // From bits `2 * G` up or down to bits 4 and 5.
            let high = vshlq_u8(high[i], vdupq_n_s8(4 - 2 * G as i8));
            let both = vorrq_u8(low, vandq_u8(high, vdupq_n_u8(0x30)));
            vsubq_s8(vreinterpretq_s8_u8(both), vdupq_n_s8(32))
        })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn d(blocks: [*const u8; 4]) -> [float32x4_t; 2] {
        // SAFETY: the scale is the block's last two bytes.
        [unsafe { halves(blocks, 208) }, zero()]
    }
}

pub(super) struct Iq2Xxs;

impl Format for Iq2Xxs {
    const LEN: usize = 256;
    const BYTES: usize = 66;
    const SUBS: usize = 8;
    const MINS: bool = false;

    /// The state is the sign bytes: 7 stored bits each and the parity that makes them even.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn header(block: *const u8) -> Header {
        let mut header = Header::empty();
        for i in 0..2 {
            // SAFETY: 64 bytes start at byte 2.
            let words = unsafe { pair(block.add(2 + 32 * i)) };
            let [first, last] = words.map(|v| vreinterpretq_u32_u8(v));
            // Every odd dword: four times seven bits of signs, four bits of scale.
            let rest = vuzp2q_u32(first, last);
            // A byte for each seven bits: what lies above a byte is inserted a shift further up.
            let sevens = vsliq_n_u32::<8>(vshrq_n_u32::<14>(rest), vshrq_n_u32::<21>(rest));
            let sevens = vsliq_n_u32::<8>(vshrq_n_u32::<7>(rest), sevens);
            let sevens = vsliq_n_u32::<8>(rest, sevens);
            let sevens = vandq_u8(vreinterpretq_u8_u32(sevens), vdupq_n_u8(0x7F));
            header.state[i] = vsliq_n_u8::<7>(sevens, vcntq_u8(sevens));
            // `2 s + 1`: whatever is the bit below the scale becomes the one.
            let scales = vorrq_u32(vshrq_n_u32::<27>(rest), vdupq_n_u32(1));
            header.scales[i] = vreinterpretq_s32_u32(scales);
        }
        header
    }

    /// The codebook is read by its index: 2 KiB stay in the first-level cache, whereas a table in
    /// registers would take more of them than there are.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn weights<const G: usize>(
        block: *const u8,
        header: &Header,
        half: usize,
    ) -> [int8x16_t; 2] {
        // SAFETY: eight bytes per group start at byte 2, the first four of them indices.
        let indices = unsafe { *block.add(2 + 32 * half + 8 * G).cast::<[u8; 4]>() };
        // Byte `v` of the signs serves weights 8v..8v + 8: spread it over them, and move the bit of each
        // to the top, from where it fills the byte.
        let spread = vcombine_u8(vcreate_u8(0), vcreate_u8(0x0101_0101_0101_0101));
        let to_top = vcreate_s8(0x0001_0203_0405_0607);
        let to_top = vcombine_s8(to_top, to_top);
        std::array::from_fn(|i| {
            let entry = |v: usize| vcreate_s8(IQ2_XXS[usize::from(indices[v])]);
            let magnitudes = vcombine_s8(entry(2 * i), entry(2 * i + 1));
            let place = vaddq_u8(spread, vdupq_n_u8((4 * G + 2 * i) as u8));
            let signs = vreinterpretq_s8_u8(vqtbl1q_u8(header.state[half], place));
            let negative = vshrq_n_s8::<7>(vshlq_s8(signs, to_top));
            // Under the mask `!x + 1`.
            vsubq_s8(veorq_s8(magnitudes, negative), negative)
        })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn d(blocks: [*const u8; 4]) -> [float32x4_t; 2] {
        // SAFETY: the scale is the block's first two bytes.
        [vmulq_n_f32(unsafe { halves(blocks, 0) }, 0.125), zero()]
    }
}

pub(super) struct Mxfp4;

impl Format for Mxfp4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;
    const SUBS: usize = 0;
    const MINS: bool = false;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn header(_: *const u8) -> Header {
        Header::empty()
    }

    /// E2M1 codes doubled to integers; the scale is halved to match.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn weights<const G: usize>(block: *const u8, _: &Header, _: usize) -> [int8x16_t; 2] {
        const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
        // SAFETY: 16 bytes of codes start at byte 1; the table has 16.
        let (codes, doubled) = unsafe { (load(block.add(1)), vld1q_s8(DOUBLED.as_ptr())) };
        let low = vandq_u8(codes, vdupq_n_u8(15));
        [vqtbl1q_s8(doubled, low), vqtbl1q_s8(doubled, vshrq_n_u8::<4>(codes))]
    }

    /// `2^(e - 128)`, with subnormal results for `e` of 0 and 1.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn d(blocks: [*const u8; 4]) -> [float32x4_t; 2] {
        // SAFETY: the scale is the block's first byte.
        let e: [u32; 4] = blocks.map(|block| u32::from(unsafe { *block }));
        // SAFETY: the array has four numbers.
        let e = unsafe { vld1q_u32(e.as_ptr()) };
        let normal = vshlq_n_u32::<23>(vsubq_u32(e, vdupq_n_u32(1)));
        let subnormal = vshlq_u32(vdupq_n_u32(0x0020_0000), vreinterpretq_s32_u32(e));
        let bits = vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), subnormal, normal);
        [vreinterpretq_f32_u32(bits), zero()]
    }
}
