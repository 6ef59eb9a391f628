//! F32, F16, BF16 and Q8_0: one rounding per weight, nothing to search.

use super::f16_saturating;

/// Copies single-precision numbers.
pub(super) fn f32(x: &[f32], out: &mut [u8]) {
    for (v, b) in x.iter().zip(out.as_chunks_mut().0) {
        *b = v.to_le_bytes();
    }
}

/// Rounds to half precision, ties to even; what exceeds 65504 becomes an infinity.
pub(super) fn f16(x: &[f32], out: &mut [u8]) {
    for (v, b) in x.iter().zip(out.as_chunks_mut().0) {
        *b = half::f16::from_f32(*v).to_le_bytes();
    }
}

/// Rounds to bfloat16, ties to even.
pub(super) fn bf16(x: &[f32], out: &mut [u8]) {
    for (v, b) in x.iter().zip(out.as_chunks_mut().0) {
        *b = half::bf16::from_f32(*v).to_le_bytes();
    }
}

/// `[d: f16, qs: 32 i8]` with d = amax / 127 and ties away from zero, equal to ggml's reference.
///
/// The quants divide by the unrounded d, as ggml's do.
#[inline(always)]
pub(super) fn q8_0(x: &[f32; 32], out: &mut [u8; 34]) {
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let d = amax / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16_saturating(d).to_le_bytes());
    for (v, q) in x.iter().zip(&mut out[2..]) {
        *q = (v * inverse).round() as i8 as u8;
    }
}
