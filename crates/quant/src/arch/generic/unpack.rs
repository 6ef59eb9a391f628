//! Stored blocks as small integers: what the int8 products see of a format.

use crate::TensorType;
use crate::grids::{IQ2_XXS, SIGN_MASKS};

/// A block as `d * scales[i / 16] * weights[i] - dmin * mins[i / 16]`.
pub(super) struct Block {
    pub(super) weights: [i8; 256],
    pub(super) scales: [i16; 16],
    pub(super) mins: [i16; 16],
    pub(super) has_mins: bool,
    pub(super) d: f32,
    pub(super) dmin: f32,
}

impl Default for Block {
    fn default() -> Self {
        let (scales, mins) = ([1; 16], [0; 16]);
        Self { weights: [0; 256], scales, mins, has_mins: false, d: 0.0, dmin: 0.0 }
    }
}

/// Unpacks one block of a format with int8 products and returns its length.
pub(super) fn unpack(ty: TensorType, b: &[u8], out: &mut Block) -> usize {
    match ty {
        TensorType::Q8_0 => q8_0(b, out),
        TensorType::Mxfp4 => mxfp4(b, out),
        TensorType::Q2K => q2_k(b, out),
        TensorType::Q4K => q4_k(b, out),
        TensorType::Q6K => q6_k(b, out),
        TensorType::Iq2Xxs => iq2_xxs(b, out),
        // `Kernels::matmul` has compared the formats.
        _ => unreachable!("{ty} has no int8 products"),
    }
    ty.block_len()
}

fn f16_at(b: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn q8_0(b: &[u8], out: &mut Block) {
    out.d = f16_at(b, 0);
    for i in 0..32 {
        out.weights[i] = b[2 + i] as i8;
    }
}

/// E2M1 codes doubled to integers; the scale is halved to match.
fn mxfp4(b: &[u8], out: &mut Block) {
    const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    out.d = half_ue8m0(b[0]);
    for i in 0..16 {
        out.weights[i] = DOUBLED[usize::from(b[1 + i] & 15)];
        out.weights[16 + i] = DOUBLED[usize::from(b[1 + i] >> 4)];
    }
}

/// 2^(e - 128), with subnormal results for e of 0 and 1.
pub(crate) fn half_ue8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

fn q2_k(b: &[u8], out: &mut Block) {
    (out.d, out.dmin, out.has_mins) = (f16_at(b, 80), f16_at(b, 82), true);
    for g in 0..16 {
        out.scales[g] = i16::from(b[g] & 15);
        out.mins[g] = i16::from(b[g] >> 4);
    }
    for i in 0..256 {
        let (half, shift, lane) = (i / 128, i / 32 % 4 * 2, i % 32);
        out.weights[i] = (b[16 + 32 * half + lane] >> shift & 3) as i8;
    }
}

fn q4_k(b: &[u8], out: &mut Block) {
    (out.d, out.dmin, out.has_mins) = (f16_at(b, 0), f16_at(b, 2), true);
    let s = &b[4..16];
    for g in 0..8 {
        let (scale, min) = if g < 4 {
            (s[g] & 63, s[g + 4] & 63)
        } else {
            (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4)
        };
        out.scales[2 * g..][..2].fill(i16::from(scale));
        out.mins[2 * g..][..2].fill(i16::from(min));
    }
    for i in 0..256 {
        let q = b[16 + i / 64 * 32 + i % 32];
        out.weights[i] = (q >> (i / 32 % 2 * 4) & 15) as i8;
    }
}

fn q6_k(b: &[u8], out: &mut Block) {
    out.d = f16_at(b, 208);
    for g in 0..16 {
        out.scales[g] = i16::from(b[192 + g] as i8);
    }
    for i in 0..256 {
        let (half, part, lane) = (i / 128, i / 32 % 4, i % 32);
        let low = b[64 * half + part % 2 * 32 + lane] >> (part / 2 * 4) & 15;
        let high = b[128 + 32 * half + lane] >> (2 * part) & 3;
        out.weights[i] = (low | high << 4) as i8 - 32;
    }
}

fn iq2_xxs(b: &[u8], out: &mut Block) {
    // The scale of 32 weights is `d * (s + 1/2) / 4`, an odd multiple of `d / 8`.
    out.d = f16_at(b, 0) * 0.125;
    for g in 0..8 {
        let at = 2 + 8 * g;
        let rest = u32::from_le_bytes([b[at + 4], b[at + 5], b[at + 6], b[at + 7]]);
        out.scales[2 * g..][..2].fill((rest >> 28) as i16 * 2 + 1);
        for v in 0..4 {
            let grid = IQ2_XXS[usize::from(b[at + v])].to_le_bytes();
            let signs = SIGN_MASKS[(rest >> (7 * v) & 127) as usize];
            for i in 0..8 {
                let sign = 1 - (signs >> i & 1) as i8 * 2;
                out.weights[32 * g + 8 * v + i] = sign * grid[i] as i8;
            }
        }
    }
}
