//! Random blocks of each storage type, made directly: no float is ever quantised, which is what
//! lets a file be written at the speed of the disk.
//!
//! Quants are random bits. What a block's scale must be for the decoded weights to have a given
//! standard deviation follows from the format, and is the `RMS` constant of each function.

use half::{bf16, f16};
use quant::TensorType;

use super::rng::Words;

/// Fills `out` with the values or blocks `first..` of a tensor of random weights with standard
/// deviation `sigma`. `out` holds whole blocks.
///
/// # Errors
/// The type's name, for a type that no recipe uses.
pub(super) fn random(
    ty: TensorType,
    words: Words,
    first: u64,
    sigma: f32,
    out: &mut [u8],
) -> Result<(), &'static str> {
    match ty {
        TensorType::F32 => floats(words, first, &table(sigma, f32::to_le_bytes), out),
        TensorType::F16 => floats(words, first, &table(sigma, half_bytes), out),
        TensorType::BF16 => {
            floats(words, first, &table(sigma, |v| bf16::from_f32(v).to_le_bytes()), out);
        }
        TensorType::Q8_0 => q8_0(words, first, sigma, out),
        TensorType::Q2K => q2_k(words, first, sigma, out),
        TensorType::Q4K => q4_k(words, first, sigma, out),
        TensorType::Iq2Xxs => iq2_xxs(words, first, sigma, out),
        TensorType::Mxfp4 => mxfp4(words, first, sigma, out),
        other => return Err(other.name()),
    }
    Ok(())
}

fn half_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// Encoded values spread evenly over ±√3·sigma, the uniform distribution of that deviation.
fn table<const N: usize>(sigma: f32, encode: impl Fn(f32) -> [u8; N]) -> Vec<[u8; N]> {
    let steps = 4096;
    let width = sigma * 1.732_050_8;
    let value = |i: usize| width * (2.0 * (i as f32 + 0.5) / steps as f32 - 1.0);
    (0..steps).map(|i| encode(value(i))).collect()
}

/// Four values a word, 12 bits each.
fn floats<const N: usize>(words: Words, first: u64, table: &[[u8; N]], out: &mut [u8]) {
    for (i, value) in out.chunks_exact_mut(N).enumerate() {
        let i = first + i as u64;
        let bits = words.get(i / 4) >> (16 * (i % 4));
        value.copy_from_slice(&table[(bits & 0xFFF) as usize]);
    }
}

/// Block scales around `scale`, ±25 %, with a mean square of `scale`².
fn scales(scale: f32) -> [[u8; 2]; 256] {
    // A uniform spread of half-width w around 1 has a mean square of 1 + w²/3.
    let norm = scale / (1.0f32 + 0.25 * 0.25 / 3.0).sqrt();
    std::array::from_fn(|i| half_bytes(norm * (0.75 + 0.5 * (i as f32 + 0.5) / 256.0)))
}

/// `f16 d · 32 × i8`.
fn q8_0(words: Words, first: u64, sigma: f32, out: &mut [u8]) {
    // Uniform over −127..=127, with −127 twice as likely: it stands in for −128, which
    // quantisers never write.
    const RMS: f32 = 73.898;
    let scales = scales(sigma / RMS);
    for (b, block) in out.chunks_exact_mut(34).enumerate() {
        let at = (first + b as u64) * 5;
        block[..2].copy_from_slice(&scales[(words.get(at) & 0xFF) as usize]);
        for (w, quants) in block[2..].chunks_exact_mut(8).enumerate() {
            let bytes = words.get(at + 1 + w as u64).to_le_bytes();
            for (quant, byte) in quants.iter_mut().zip(bytes) {
                *quant = if byte == 0x80 { 0x81 } else { byte };
            }
        }
    }
}

/// `16 × (4-bit scale, 4-bit minimum) · 64 × 4 quants · f16 d · f16 dmin`.
fn q2_k(words: Words, first: u64, sigma: f32, out: &mut [u8]) {
    // Quants 0..=3 around 1.5 have a mean square of 1.25; scales 8..=15 one of 137.5. The
    // minimum equals the scale and dmin is 1.5·d, so that every weight has mean 0.
    const RMS: f32 = 13.110;
    let scales = scales(sigma / RMS);
    for (b, block) in out.chunks_exact_mut(84).enumerate() {
        let at = (first + b as u64) * 11;
        for w in 0..2 {
            let scale = words.get(at + w) & 0x0707_0707_0707_0707 | 0x0808_0808_0808_0808;
            let both = scale | scale << 4;
            block[8 * w as usize..][..8].copy_from_slice(&both.to_le_bytes());
        }
        for w in 0..8 {
            let quants = words.get(at + 2 + w).to_le_bytes();
            block[16 + 8 * w as usize..][..8].copy_from_slice(&quants);
        }
        let d = scales[(words.get(at + 10) & 0xFF) as usize];
        block[80..82].copy_from_slice(&d);
        block[82..84].copy_from_slice(&half_bytes(1.5 * f16::from_le_bytes(d).to_f32()));
    }
}

/// `f16 d · f16 dmin · 8 × (6-bit scale, 6-bit minimum) · 256 × 4-bit quants`.
fn q4_k(words: Words, first: u64, sigma: f32, out: &mut [u8]) {
    // Quants 0..=15 around 7.5 have a mean square of 21.25; scales 32..=63 one of 2341.5. The
    // minimum equals the scale and dmin is 7.5·d, so that every weight has mean 0.
    const RMS: f32 = 223.06;
    let scales = scales(sigma / RMS);
    for (b, block) in out.chunks_exact_mut(144).enumerate() {
        let at = (first + b as u64) * 18;
        let d = scales[(words.get(at) & 0xFF) as usize];
        block[..2].copy_from_slice(&d);
        block[2..4].copy_from_slice(&half_bytes(7.5 * f16::from_le_bytes(d).to_f32()));
        let scale =
            (words.get(at + 1) & 0x1F1F_1F1F_1F1F_1F1F | 0x2020_2020_2020_2020).to_le_bytes();
        for j in 0..4 {
            // The upper two bits of the last four scales and minima lie above the first four.
            let (low, high) = (scale[j], scale[j + 4]);
            block[4 + j] = low | (high >> 4) << 6;
            block[8 + j] = low | (high >> 4) << 6;
            block[12 + j] = high & 0xF | (high & 0xF) << 4;
        }
        for w in 0..16 {
            let quants = words.get(at + 2 + w).to_le_bytes();
            block[16 + 8 * w as usize..][..8].copy_from_slice(&quants);
        }
    }
}

/// `f16 d · 8 × (4 grid indices, 4 × 7 sign bits, 4-bit scale)`. Every bit pattern is valid.
fn iq2_xxs(words: Words, first: u64, sigma: f32, out: &mut [u8]) {
    // Scales 8..=15 stand for (scale + ½)/4 and have a mean square of 9.328; the grid's values
    // (8, 25 and 43) have one of 534.4.
    const RMS: f32 = 70.606;
    let scales = scales(sigma / RMS);
    for (b, block) in out.chunks_exact_mut(66).enumerate() {
        let at = (first + b as u64) * 9;
        block[..2].copy_from_slice(&scales[(words.get(at) & 0xFF) as usize]);
        for (w, group) in block[2..].chunks_exact_mut(8).enumerate() {
            // The top bit of the scale: small scales would waste the format's range.
            let bits = words.get(at + 1 + w as u64) | 1 << 63;
            group.copy_from_slice(&bits.to_le_bytes());
        }
    }
}

/// `8-bit exponent · 32 × E2M1`.
fn mxfp4(words: Words, first: u64, sigma: f32, out: &mut [u8]) {
    // ±{0, ½, 1, 1½, 2, 3, 4, 6} have a mean square of 8.5625.
    const RMS: f32 = 2.926;
    let wanted = sigma / RMS;
    // Scales are powers of two: mix the two nearest so that the mean square is right. The one
    // below is the float without its mantissa.
    let low = f32::from_bits(wanted.to_bits() & 0x7F80_0000);
    let share_high = (wanted * wanted - low * low) / (3.0 * low * low);
    let threshold = (share_high * 256.0) as u64;
    let exponent = ((wanted.to_bits() >> 23) & 0xFF).min(253) as u8;
    for (b, block) in out.chunks_exact_mut(17).enumerate() {
        let at = (first + b as u64) * 3;
        block[0] = exponent + u8::from(words.get(at) & 0xFF < threshold);
        block[1..9].copy_from_slice(&words.get(at + 1).to_le_bytes());
        block[9..17].copy_from_slice(&words.get(at + 2).to_le_bytes());
    }
}
