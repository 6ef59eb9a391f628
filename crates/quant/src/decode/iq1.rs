//! IQ1_S and IQ1_M: vectors of eight values out of {-1, 0, 1}, shifted by an eighth.

use super::{f16_at, u16_at};
use crate::grids;

const DELTA: f32 = 0.125;

/// `[d: f16, qs: 32, qh: 8 u16]`.
///
/// Each u16 serves 32 weights: four 3-bit upper parts of grid indices, a 3-bit scale and the sign
/// of the shift.
pub(super) fn iq1_s(b: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (g, run) in runs.iter_mut().enumerate() {
        let high = u16_at(b, 34 + 2 * g);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let delta = if high & 0x8000 == 0 { DELTA } else { -DELTA };
        for (v, part) in run.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let index = usize::from(b[2 + 4 * g + v]) | usize::from(high >> (3 * v) & 7) << 8;
            shifted(index, scale, delta, part);
        }
    }
}

/// `[qs: 32, qh: 16, scales: 4 u16]`.
///
/// Each nibble of qh holds the upper three bits of a grid index and the sign of its shift. The top
/// nibbles of the scales make up the half-precision d, first nibble lowest; the rest are 3-bit
/// scales of 16 weights each.
pub(super) fn iq1_m(b: &[u8; 56], out: &mut [f32; 256]) {
    let words: [u16; 4] = std::array::from_fn(|i| u16_at(b, 48 + 2 * i));
    let d = words.iter().rev().fold(0, |bits, word| bits << 4 | word >> 12);
    let d = half::f16::from_bits(d).to_f32();
    let (parts, _) = out.as_chunks_mut::<8>();
    for (v, part) in parts.iter_mut().enumerate() {
        let scale = words[v / 8] >> (3 * (v / 2 % 4)) & 7;
        let nibble = b[32 + v / 2] >> (v % 2 * 4);
        let delta = if nibble & 8 == 0 { DELTA } else { -DELTA };
        let index = usize::from(b[v]) | usize::from(nibble & 7) << 8;
        shifted(index, d * f32::from(2 * scale + 1), delta, part);
    }
}

fn shifted(index: usize, scale: f32, delta: f32, out: &mut [f32; 8]) {
    for (v, q) in out.iter_mut().zip(grids::IQ1[index].to_le_bytes()) {
        *v = scale * (f32::from(q as i8) + delta);
    }
}
