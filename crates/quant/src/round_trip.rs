//! The rounding that is part of the model: KV rows go through E4M3 in blocks of 64, index rows
//! through a Hadamard transform and E2M1 in blocks of 32, with power-of-two scales.
//!
//! The scale of a block is the smallest power of two at or above `max(amax, floor) · (1/largest)`,
//! its exponent taken from the bits of that float32 product as in DeepSeek's kernels. Dividing by
//! it is exact. A block that holds a NaN or an infinity gets the scale NaN, so a fault upstream
//! stays visible instead of becoming a plausible number.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::{
    Error,
    f4::{self, E2M1_MAX},
    f8::{self, E4M3_MAX},
    widest::widest,
};

/// Largest magnitudes below this one share its FP8 scale.
const FP8_AMAX_MIN: f32 = 1e-4;

/// Largest magnitudes below this one (6 · 2^-126) share its FP4 scale.
const FP4_AMAX_MIN: f32 = 6.0 * f32::MIN_POSITIVE;

widest! {
    /// Rounds `x` to E4M3 and back, in blocks of `block` values with one scale each.
    ///
    /// # Panics
    ///
    /// When `block` is zero.
    pub fn fp8 / fp8_portable(x: &mut [f32], block: usize) {
        for x in x.chunks_mut(block) {
            let (scale, inverse) = scale_pair(fp8_scale(x));
            for v in x {
                *v = f8::round(*v * inverse) * scale;
            }
        }
    }
}

widest! {
    /// Rounds `x` to E2M1 and back, in blocks of `block` values with one scale each.
    ///
    /// # Panics
    ///
    /// When `block` is zero.
    pub fn fp4 / fp4_portable(x: &mut [f32], block: usize) {
        for x in x.chunks_mut(block) {
            let (scale, inverse) = scale_pair(fp4_scale(x));
            for v in x {
                *v = f4::round(*v * inverse) * scale;
            }
        }
    }
}

widest! {
    /// Encodes one block to E4M3 codes, one byte a value, and returns its UE8M0 scale.
    ///
    /// [`fp8_decode`] of the result equals [`fp8`] bit for bit.
    ///
    /// # Panics
    ///
    /// When `codes` and `x` differ in length.
    pub fn fp8_block_encode / fp8_block_encode_portable(x: &[f32], codes: &mut [u8]) -> u8 {
        assert_eq!(codes.len(), x.len(), "one E4M3 code a value");
        let e = fp8_scale(x);
        let (_, inverse) = scale_pair(e);
        for (code, v) in codes.iter_mut().zip(x) {
            *code = f8::encode(v * inverse);
        }
        e
    }
}

/// Decodes a row of E4M3 codes, `block` of them with each UE8M0 scale.
///
/// # Panics
///
/// When `codes` and `out` differ in length, or `block` is zero.
pub fn fp8_decode(codes: &[u8], scales: &[u8], block: usize, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len(), "one E4M3 code a value");
    #[cfg(target_arch = "x86_64")]
    if block > 0
        && block.is_multiple_of(32)
        && codes.len().is_multiple_of(block)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
    {
        // SAFETY: the function needs what has just been found.
        return unsafe { crate::arch::x86_64::round_trip::fp8_row(codes, scales, block, out) };
    }
    let blocks = out.chunks_mut(block).zip(codes.chunks(block)).zip(scales);
    for ((out, codes), &scale) in blocks {
        let scale = f8::ue8m0_decode(scale);
        #[allow(unused_mut)] // Other architectures have no kernel of their own.
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
            // SAFETY: the function needs what has just been found.
            done = unsafe { crate::arch::x86_64::round_trip::fp8(codes, scale, out) };
        }
        if done < codes.len() {
            fp8_rest(&codes[done..], scale, &mut out[done..]);
        }
    }
}

/// Rows of E4M3 codes, [`MixedRow::BLOCK`] of them with each UE8M0 scale, with half-precision numbers behind.
#[derive(Clone, Copy, Debug)]
pub struct MixedRow {
    /// Codes, at the row's beginning; whole blocks of them.
    pub codes: usize,
    /// Where half-precision numbers begin, in bytes. Scales begin behind the codes.
    pub halves_at: usize,
    /// Values in all.
    pub dim: usize,
}

impl MixedRow {
    /// Codes that share a scale.
    pub const BLOCK: usize = 64;

    /// Decodes rows, one after another in `out`, and asks for as many of those that are decoded next. The bits
    /// are those of [`fp8_decode`] and [`f16_decode`].
    ///
    /// # Panics
    ///
    /// When `out` is too short for the rows, or a row for its parts.
    pub fn decode(&self, rows: &[&[u8]], ahead: &[&[u8]], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.codes.is_multiple_of(Self::BLOCK)
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
        {
            // SAFETY: the function needs what has just been found.
            return unsafe { crate::arch::x86_64::round_trip::mixed_rows(self, rows, ahead, out) };
        }
        // Nothing is asked for here.
        let _ = ahead;
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(self.dim)) {
            let (coded, tail) = out.split_at_mut(self.codes);
            let (codes, scales) = row.split_at(self.codes);
            fp8_decode(codes, scales, Self::BLOCK, coded);
            f16_decode(&row[self.halves_at..][..2 * tail.len()], tail);
        }
    }
}

widest! {
    /// Codes without a kernel.
    fn fp8_rest / fp8_rest_portable(codes: &[u8], scale: f32, out: &mut [f32]) {
        for (v, code) in out.iter_mut().zip(codes) {
            *v = f8::decode_arithmetic(*code) * scale;
        }
    }
}

/// Decodes little-endian half-precision numbers.
///
/// # Panics
///
/// When `bytes` is not twice as long as `out`.
pub fn f16_decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * out.len(), "two bytes a value");
    #[allow(unused_mut)] // As above.
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the function needs what has just been found.
        done = unsafe { crate::arch::x86_64::round_trip::f16_wide(bytes, out) };
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: as above.
        done = unsafe { crate::arch::x86_64::round_trip::f16(bytes, out) };
    }
    // Sixteen at a time: one by one, each would be a call.
    for (out, bytes) in out[done..].chunks_mut(16).zip(bytes[2 * done..].chunks(32)) {
        let mut halves = [f16::ZERO; 16];
        for (half, b) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*b);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

widest! {
    /// Encodes one block to E2M1 codes, two a byte with the even value in the low nibble, and
    /// returns its UE8M0 scale.
    ///
    /// [`fp4_block_decode`] of the result equals [`fp4`] bit for bit.
    ///
    /// # Panics
    ///
    /// When `codes` is not half as long as `x`.
    pub fn fp4_block_encode / fp4_block_encode_portable(x: &[f32], codes: &mut [u8]) -> u8 {
        assert_eq!(codes.len() * 2, x.len(), "two E2M1 codes a byte");
        let e = fp4_scale(x);
        let (_, inverse) = scale_pair(e);
        for (code, pair) in codes.iter_mut().zip(x.as_chunks::<2>().0) {
            *code = f4::encode(pair[0] * inverse) | f4::encode(pair[1] * inverse) << 4;
        }
        e
    }
}

widest! {
    /// Decodes one block of packed E2M1 codes with its UE8M0 scale.
    ///
    /// # Panics
    ///
    /// When `codes` is not half as long as `out`.
    pub fn fp4_block_decode / fp4_block_decode_portable(codes: &[u8], scale: u8, out: &mut [f32]) {
        assert_eq!(codes.len() * 2, out.len(), "two E2M1 codes a byte");
        let scale = f8::ue8m0_decode(scale);
        for (pair, code) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
            let values = [f4::decode_arithmetic(*code), f4::decode_arithmetic(*code >> 4)];
            *pair = values.map(|v| v * scale);
        }
    }
}

widest! {
    /// The orthonormal Walsh-Hadamard transform in Sylvester order, in place: its own inverse.
    ///
    /// # Errors
    ///
    /// [`Error::NotPowerOfTwo`] for any other length, zero included.
    pub fn hadamard / hadamard_portable(x: &mut [f32]) -> Result<(), Error> {
        if !x.len().is_power_of_two() {
            return Err(Error::NotPowerOfTwo { len: x.len() });
        }
        // The first three rounds stay within runs of eight, where the compiler can unroll them.
        let (runs, rest) = x.as_chunks_mut::<8>();
        for run in runs {
            for half in [1, 2, 4] {
                butterflies(run, half);
            }
        }
        if !rest.is_empty() {
            let mut half = 1;
            while half < rest.len() {
                butterflies(rest, half);
                half *= 2;
            }
        }
        let mut half = 8;
        while half < x.len() {
            butterflies(x, half);
            half *= 2;
        }
        let norm = 1.0 / (x.len() as f32).sqrt();
        for v in x {
            *v *= norm;
        }
        Ok(())
    }
}

/// One round: sums and differences of values `half` apart.
#[inline(always)]
fn butterflies(x: &mut [f32], half: usize) {
    for pair in x.chunks_exact_mut(2 * half) {
        let (a, b) = pair.split_at_mut(half);
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

#[inline(always)]
fn fp8_scale(x: &[f32]) -> u8 {
    block_scale(x, FP8_AMAX_MIN, 1.0 / E4M3_MAX)
}

#[inline(always)]
fn fp4_scale(x: &[f32]) -> u8 {
    block_scale(x, FP4_AMAX_MIN, 1.0 / E2M1_MAX)
}

#[inline(always)]
fn block_scale(x: &[f32], amax_min: f32, inverse_max: f32) -> u8 {
    // Magnitudes order as their bits do, with infinities and then NaNs above all numbers. Signed
    // comparisons serve, as the sign bit is clear, and are what every vector unit has.
    let magnitude = |v: &f32| v.to_bits() as i32 & i32::MAX;
    let mut lanes = [amax_min.to_bits() as i32; 8];
    let (runs, rest) = x.as_chunks::<8>();
    for run in runs {
        for (lane, v) in lanes.iter_mut().zip(run) {
            *lane = magnitude(v).max(*lane);
        }
    }
    let amax = rest.iter().map(magnitude).chain(lanes).fold(0, i32::max);
    let amax = f32::from_bits(amax as u32);
    if amax.is_finite() { f8::ue8m0_ceil(amax * inverse_max) } else { 255 }
}

/// The scale and its exact inverse. Scales of finite blocks lie between 2^-126 and 2^126, so
/// neither is a subnormal.
#[inline(always)]
fn scale_pair(e: u8) -> (f32, f32) {
    let inverse = if e == 255 { f32::NAN } else { f8::ue8m0_decode(254 - e) };
    (f8::ue8m0_decode(e), inverse)
}

#[cfg(test)]
mod tests;
