//! MXFP4 and NVFP4: E2M1 codes under a shared power of two (OCP microscaling) or a shared E4M3.

/// E2M1 values doubled, so that all are integers; the scales below are halved to match.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `[e: ue8m0, qs: 16]`: low nibbles are weights 0..16, high nibbles 16..32.
pub(super) fn mxfp4(b: &[u8; 17], out: &mut [f32; 32]) {
    let scale = half_ue8m0(b[0]);
    for i in 0..16 {
        out[i] = scale * f32::from(DOUBLED[usize::from(b[1 + i] & 15)]);
        out[i + 16] = scale * f32::from(DOUBLED[usize::from(b[1 + i] >> 4)]);
    }
}

/// `[scales: 4 ue4m3, qs: 32]`: four runs of 16 weights, each with its nibbles split as in MXFP4.
pub(super) fn nvfp4(b: &[u8; 36], out: &mut [f32; 64]) {
    let (runs, _) = out.as_chunks_mut::<16>();
    for (g, run) in runs.iter_mut().enumerate() {
        let scale = half_ue4m3(b[g]);
        for i in 0..8 {
            let q = b[4 + 8 * g + i];
            run[i] = scale * f32::from(DOUBLED[usize::from(q & 15)]);
            run[i + 8] = scale * f32::from(DOUBLED[usize::from(q >> 4)]);
        }
    }
}

/// 2^(e - 128), with subnormal results for e of 0 and 1.
#[inline]
fn half_ue8m0(e: u8) -> f32 {
    let bits = if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 };
    f32::from_bits(bits)
}

/// Half of an unsigned E4M3 number; 0x7F stands for zero and bit 7 is ignored.
fn half_ue4m3(bits: u8) -> f32 {
    if bits == 0x7F {
        return 0.0;
    }
    let (exponent, mantissa) = (bits >> 3 & 15, f32::from(bits & 7));
    if exponent == 0 {
        mantissa * 2f32.powi(-10)
    } else {
        (1.0 + mantissa / 8.0) * 2f32.powi(i32::from(exponent) - 8)
    }
}
