//! Blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! The low nibbles of the 16 quant bytes are weights 0..16, the high nibbles weights 16..32.

use super::{f16_at, u32_at};

/// `[d: f16, qs: 16]`, w = d (q - 8).
pub(super) fn q4_0(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..16 {
        out[i] = d * (f32::from(b[2 + i] & 15) - 8.0);
        out[i + 16] = d * (f32::from(b[2 + i] >> 4) - 8.0);
    }
}

/// `[d: f16, m: f16, qs: 16]`, w = d q + m.
pub(super) fn q4_1(b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    for i in 0..16 {
        out[i] = d * f32::from(b[4 + i] & 15) + m;
        out[i + 16] = d * f32::from(b[4 + i] >> 4) + m;
    }
}

/// `[d: f16, qh: u32, qs: 16]`, bit i of qh is the fifth bit of weight i, w = d (q - 16).
pub(super) fn q5_0(b: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (f16_at(b, 0), u32_at(b, 2));
    for i in 0..16 {
        let (low, upper) = five_bits(b[6 + i], high, i);
        out[i] = d * (low - 16.0);
        out[i + 16] = d * (upper - 16.0);
    }
}

/// `[d: f16, m: f16, qh: u32, qs: 16]`, w = d q + m.
pub(super) fn q5_1(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, high) = (f16_at(b, 0), f16_at(b, 2), u32_at(b, 4));
    for i in 0..16 {
        let (low, upper) = five_bits(b[8 + i], high, i);
        out[i] = d * low + m;
        out[i + 16] = d * upper + m;
    }
}

/// `[d: f16, qs: 32 i8]`, w = d q.
pub(super) fn q8_0(b: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..32 {
        out[i] = f32::from(b[2 + i] as i8) * d;
    }
}

/// Weights `i` and `i + 16` of a five-bit block, as 0..32.
fn five_bits(nibbles: u8, high: u32, i: usize) -> (f32, f32) {
    let bit = |n: usize| ((high >> n & 1) << 4) as u8;
    (f32::from(nibbles & 15 | bit(i)), f32::from(nibbles >> 4 | bit(i + 16)))
}
