//! TQ1_0 and TQ2_0: weights out of {-1, 0, 1} times one scale.

use super::f16_at;

/// `[qs: 48, qh: 4, d: f16]`: five base-3 digits a byte (four in qh), most significant first,
/// stored as a fixed-point fraction so that multiplying by 3 shifts the next digit out of the byte.
pub(super) fn tq1_0(b: &[u8; 54], out: &mut [f32; 256]) {
    /// Weights that one power of three yields from a run of bytes, and the number of powers.
    const RUNS: [(usize, usize, usize); 3] = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];
    let d = f16_at(b, 52);
    let mut weights = out.iter_mut();
    for (start, len, digits) in RUNS {
        let mut power = 1u8;
        for _ in 0..digits {
            for (byte, v) in b[start..start + len].iter().zip(&mut weights) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *v = d * (f32::from(digit) - 1.0);
            }
            power = power.wrapping_mul(3);
        }
    }
}

/// `[qs: 64, d: f16]`: two bits a weight, laid out as in Q2_K; the code 3 decodes to 2.
pub(super) fn tq2_0(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(b, 64);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (r, run) in runs.iter_mut().enumerate() {
        for (v, q) in run.iter_mut().zip(&b[32 * (r / 4)..][..32]) {
            *v = d * (f32::from(q >> (r % 4 * 2) & 3) - 1.0);
        }
    }
}
