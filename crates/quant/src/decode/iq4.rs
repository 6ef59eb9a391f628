//! IQ4_NL and IQ4_XS: four-bit indices into one table of unevenly spaced values.

use super::{f16_at, u16_at};

/// The 16 levels, denser around zero.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `[d: f16, qs: 16]`: low nibbles are weights 0..16, high nibbles 16..32.
pub(super) fn iq4_nl(b: &[u8; 18], out: &mut [f32; 32]) {
    levels(&b[2..], f16_at(b, 0), out);
}

/// `[d: f16, scales_h: u16, scales_l: 4, qs: 128]`: eight IQ4_NL runs with six-bit scales less 32.
pub(super) fn iq4_xs(b: &[u8; 136], out: &mut [f32; 256]) {
    let (d, high) = (f16_at(b, 0), u16_at(b, 2));
    let (runs, _) = out.as_chunks_mut::<32>();
    for (g, run) in runs.iter_mut().enumerate() {
        let low = b[4 + g / 2] >> (g % 2 * 4) & 15;
        let scale = low | ((high >> (2 * g) & 3) as u8) << 4;
        levels(&b[8 + 16 * g..][..16], d * (f32::from(scale) - 32.0), run);
    }
}

fn levels(nibbles: &[u8], scale: f32, out: &mut [f32; 32]) {
    for (i, q) in nibbles.iter().enumerate() {
        out[i] = scale * f32::from(LEVELS[usize::from(q & 15)]);
        out[i + 16] = scale * f32::from(LEVELS[usize::from(q >> 4)]);
    }
}
