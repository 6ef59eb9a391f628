//! F32, F16, BF16 and F64: plain numbers in little-endian order.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Copies single-precision numbers.
pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    for (b, v) in bytes.as_chunks().0.iter().zip(out) {
        *v = f32::from_le_bytes(*b);
    }
}

/// Widens half-precision numbers, with the CPU's conversion instructions where it has them.
pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    /// Numbers converted at a time: mapped bytes need not be aligned for `u16`, so they pass
    /// through a small aligned buffer.
    const LANES: usize = 128;
    let mut bits = [0u16; LANES];
    for (bytes, out) in bytes.chunks(2 * LANES).zip(out.chunks_mut(LANES)) {
        let bits = &mut bits[..out.len()];
        for (b, v) in bytes.as_chunks().0.iter().zip(&mut *bits) {
            *v = u16::from_le_bytes(*b);
        }
        bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(out);
    }
}

/// Widens bfloat16 numbers: they are the upper halves of single-precision ones.
pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (b, v) in bytes.as_chunks().0.iter().zip(out) {
        *v = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}

/// Narrows double-precision numbers to the nearest single.
pub(super) fn f64(bytes: &[u8], out: &mut [f32]) {
    for (b, v) in bytes.as_chunks().0.iter().zip(out) {
        *v = f64::from_le_bytes(*b) as f32;
    }
}
