//! MXFP4: E2M1 codes under a shared power of two.

use crate::f4;

/// `[e: ue8m0, qs: 16]`: the better of the two exponents that can win.
///
/// With the largest magnitude in [4, 8) times the scale, values above 6 saturate; the next exponent
/// saturates nothing but is coarser. Weights that are E2M1 times a power of two are kept exactly by
/// the first.
#[inline(always)]
pub(super) fn mxfp4(x: &[f32; 32], out: &mut [u8; 17]) {
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let low = (amax.to_bits() >> 23).saturating_sub(2).min(253) as u8;
    let best = if squared_error(x, low + 1) < squared_error(x, low) { low + 1 } else { low };
    let inverse = 1.0 / scale(best);
    out[0] = best;
    for i in 0..16 {
        let code = |v: f32| f4::encode((f64::from(v) * inverse) as f32);
        out[1 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}

#[inline(always)]
fn squared_error(x: &[f32; 32], e: u8) -> f64 {
    let (scale, inverse) = (scale(e), 1.0 / scale(e));
    x.iter()
        .map(|&v| {
            let v = f64::from(v);
            (v - f64::from(f4::decode(f4::encode((v * inverse) as f32))) * scale).powi(2)
        })
        .sum()
}

/// In double precision, so that the smallest scale, 2^-127, has an inverse.
#[inline(always)]
fn scale(e: u8) -> f64 {
    2f64.powi(i32::from(e) - 127)
}
