//! IQ2_XXS, IQ2_XS and IQ2_S: grid vectors of eight magnitudes with a sign mask and 4-bit scales.

use super::{f16_at, u16_at, u32_at};
use crate::grids;

/// `[d: f16, 8 x (indices: 4, rest: u32)]`.
///
/// `rest` serves 32 weights: four 7-bit sign masks and, in the top four bits, the scale.
pub(super) fn iq2_xxs(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (g, run) in runs.iter_mut().enumerate() {
        let indices = &b[2 + 8 * g..][..4];
        let rest = u32_at(b, 6 + 8 * g);
        let scale = quarter_scale(d, (rest >> 28) as u8);
        for (v, part) in run.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let signs = grids::SIGN_MASKS[(rest >> (7 * v) & 127) as usize];
            signed(grids::IQ2_XXS[usize::from(indices[v])], signs, scale, part);
        }
    }
}

/// `[d: f16, qs: 32 u16, scales: 8]`: nine bits of grid index and seven of signs per 8 weights, one
/// scale nibble per 16.
pub(super) fn iq2_xs(b: &[u8; 74], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    let (parts, _) = out.as_chunks_mut::<8>();
    for (v, part) in parts.iter_mut().enumerate() {
        let q = u16_at(b, 2 + 2 * v);
        let scale = quarter_scale(d, b[66 + v / 4] >> (v / 2 % 2 * 4) & 15);
        let signs = grids::SIGN_MASKS[usize::from(q >> 9)];
        signed(grids::IQ2_XS[usize::from(q & 511)], signs, scale, part);
    }
}

/// `[d: f16, qs: 32, signs: 32, qh: 8, scales: 8]`: ten bits of grid index (two of them in qh) and
/// eight of signs per 8 weights, one scale nibble per 16.
pub(super) fn iq2_s(b: &[u8; 82], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    let (parts, _) = out.as_chunks_mut::<8>();
    for (v, part) in parts.iter_mut().enumerate() {
        let high = b[66 + v / 4] >> (v % 4 * 2) & 3;
        let index = usize::from(b[2 + v]) | usize::from(high) << 8;
        let scale = quarter_scale(d, b[74 + v / 4] >> (v / 2 % 2 * 4) & 15);
        signed(grids::IQ2_S[index], b[34 + v], scale, part);
    }
}

/// d (1/2 + s) / 4, the scale of the 2-bit grids.
#[inline]
fn quarter_scale(d: f32, s: u8) -> f32 {
    d * (0.5 + f32::from(s)) * 0.25
}

#[inline]
fn signed(grid: u64, signs: u8, scale: f32, out: &mut [f32; 8]) {
    for (i, (v, magnitude)) in out.iter_mut().zip(grid.to_le_bytes()).enumerate() {
        let negative = u32::from(signs >> i & 1) << 31;
        *v = f32::from_bits((scale * f32::from(magnitude)).to_bits() ^ negative);
    }
}
