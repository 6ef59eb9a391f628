//! IQ3_XXS and IQ3_S: grid vectors of four magnitudes with sign masks and 4-bit scales.

use super::{f16_at, u32_at};
use crate::grids;

/// `[d: f16, qs: 64, rest: 8 u32]`: one index per 4 weights; `rest` is as in IQ2_XXS.
pub(super) fn iq3_xxs(b: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (g, run) in runs.iter_mut().enumerate() {
        let rest = u32_at(b, 66 + 4 * g);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        for (v, part) in run.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let signs = grids::SIGN_MASKS[(rest >> (7 * v) & 127) as usize];
            let pair = &b[2 + 8 * g + 2 * v..][..2];
            let grid = [grids::IQ3_XXS[usize::from(pair[0])], grids::IQ3_XXS[usize::from(pair[1])]];
            signed(grid, signs, scale, part);
        }
    }
}

/// `[d: f16, qs: 64, qh: 8, signs: 32, scales: 4]`: a ninth index bit per 4 weights in qh, eight
/// sign bits per 8 weights, one scale nibble per 32.
pub(super) fn iq3_s(b: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (g, run) in runs.iter_mut().enumerate() {
        let scale = d * f32::from(1 + 2 * (b[106 + g / 2] >> (g % 2 * 4) & 15));
        let high = b[66 + g];
        let entry = |i: usize| {
            let index = usize::from(b[2 + 8 * g + i]) | usize::from(high >> i & 1) << 8;
            grids::IQ3_S[index]
        };
        for (v, part) in run.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            signed([entry(2 * v), entry(2 * v + 1)], b[74 + 4 * g + v], scale, part);
        }
    }
}

fn signed(grid: [u32; 2], signs: u8, scale: f32, out: &mut [f32; 8]) {
    let magnitudes = u64::from(grid[0]) | u64::from(grid[1]) << 32;
    for (i, (v, magnitude)) in out.iter_mut().zip(magnitudes.to_le_bytes()).enumerate() {
        let negative = u32::from(signs >> i & 1) << 31;
        *v = f32::from_bits((scale * f32::from(magnitude)).to_bits() ^ negative);
    }
}
