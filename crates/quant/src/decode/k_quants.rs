//! Super-blocks of 256 weights with quantised sub-block scales: Q2_K to Q6_K.

use super::f16_at;

/// `[scales: 16, qs: 64, d: f16, dmin: f16]`.
///
/// Sub-block s of 16 weights has scale `d (scales[s] & 15)` and minimum `dmin (scales[s] >> 4)`.
/// Each half of 128 weights takes 32 quant bytes, two bits a weight, 32 weights apart.
pub(super) fn q2_k(b: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    let (runs, _) = out.as_chunks_mut::<16>();
    for (s, run) in runs.iter_mut().enumerate() {
        let scale = d * f32::from(b[s] & 15);
        let min = dmin * f32::from(b[s] >> 4);
        let qs = &b[16 + 32 * (s / 8) + 16 * (s % 2)..][..16];
        let shift = s / 2 % 4 * 2;
        for (v, q) in run.iter_mut().zip(qs) {
            *v = scale * f32::from(q >> shift & 3) - min;
        }
    }
}

/// `[hmask: 32, qs: 64, scales: 12, d: f16]`.
///
/// Quants are laid out as in Q2_K; a *clear* bit r of `hmask[i]` lowers weight `32 r + i` by 4.
pub(super) fn q3_k(b: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(b, 108);
    let packed = &b[96..108];
    let (runs, _) = out.as_chunks_mut::<16>();
    for (s, run) in runs.iter_mut().enumerate() {
        let low = packed[s % 8] >> (s / 8 * 4) & 15;
        let high = packed[8 + s % 4] >> (s / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let masks = &b[16 * (s % 2)..][..16];
        let qs = &b[32 + 32 * (s / 8) + 16 * (s % 2)..][..16];
        let shift = s / 2 % 4 * 2;
        for ((v, q), mask) in run.iter_mut().zip(qs).zip(masks) {
            let offset = f32::from((!mask >> (s / 2) & 1) << 2);
            *v = scale * (f32::from(q >> shift & 3) - offset);
        }
    }
}

/// `[d: f16, dmin: f16, scales: 12, qs: 128]`.
///
/// Sub-block s of 32 weights takes the low (even s) or high (odd s) nibbles of 32 quant bytes.
pub(super) fn q4_k(b: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    let (runs, _) = out.as_chunks_mut::<32>();
    for (s, run) in runs.iter_mut().enumerate() {
        let (scale, min) = six_bit_pair(&b[4..16], s);
        let (scale, min) = (d * scale, dmin * min);
        let shift = s % 2 * 4;
        for (v, q) in run.iter_mut().zip(&b[16 + s / 2 * 32..][..32]) {
            *v = scale * f32::from(q >> shift & 15) - min;
        }
    }
}

/// `[d: f16, dmin: f16, scales: 12, qh: 32, qs: 128]`: Q4_K with bit s of `qh[i]` as the fifth bit
/// of weight i of sub-block s.
pub(super) fn q5_k(b: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    let (runs, _) = out.as_chunks_mut::<32>();
    for (s, run) in runs.iter_mut().enumerate() {
        let (scale, min) = six_bit_pair(&b[4..16], s);
        let (scale, min) = (d * scale, dmin * min);
        let shift = s % 2 * 4;
        let (high, qs) = (&b[16..48], &b[48 + s / 2 * 32..][..32]);
        for ((v, q), h) in run.iter_mut().zip(qs).zip(high) {
            *v = scale * f32::from((q >> shift & 15) | (h >> s & 1) << 4) - min;
        }
    }
}

/// `[ql: 128, qh: 64, scales: 16 i8, d: f16]`, w = d scale (q - 32).
///
/// Each half of 128 weights is four runs of 32: runs 0 and 1 are the low nibbles of 64 bytes of ql,
/// runs 2 and 3 the high nibbles; run r takes bits 2r and 2r + 1 of 32 bytes of qh.
pub(super) fn q6_k(b: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(b, 208);
    let (runs, _) = out.as_chunks_mut::<16>();
    for (s, run) in runs.iter_mut().enumerate() {
        let scale = d * f32::from(b[192 + s] as i8);
        let (half, r, column) = (s / 8, s % 8 / 2, s % 2 * 16);
        let low = &b[64 * half + r % 2 * 32 + column..][..16];
        let high = &b[128 + 32 * half + column..][..16];
        for ((v, l), h) in run.iter_mut().zip(low).zip(high) {
            let q = (l >> (r / 2 * 4) & 15) | (h >> (2 * r) & 3) << 4;
            *v = scale * (f32::from(q) - 32.0);
        }
    }
}

/// Scale and minimum `s` of the eight pairs that Q4_K and Q5_K pack into 12 bytes, six bits each.
fn six_bit_pair(packed: &[u8], s: usize) -> (f32, f32) {
    let (scale, min) = if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        let rest = packed[s + 4];
        ((rest & 15) | packed[s - 4] >> 6 << 4, rest >> 4 | packed[s] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}
