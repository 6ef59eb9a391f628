//! Blocks to floats, one file per family of formats.
//!
//! Arithmetic follows the order of operations of the `gguf` Python package, so results are equal to
//! its `dequantize` bit for bit.

mod float;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k_quants;
mod legacy;
mod micro;
mod ternary;

use crate::{Error, TensorType};

/// Decodes whole blocks: `bytes` holds `out.len()` weights of type `ty`, stored one after another.
///
/// # Errors
///
/// [`Error::Length`] when `bytes` is not exactly what `out.len()` weights take in whole blocks,
/// [`Error::NoDecoder`] for integers and for formats that no file stores (Q8_1, Q8_K, Q1_0).
pub fn decode(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    use TensorType as T;
    let expected = ty.row_bytes(out.len());
    if expected != Some(bytes.len()) {
        return Err(Error::Length { ty, weights: out.len(), expected, bytes: bytes.len() });
    }
    match ty {
        T::F32 => float::f32(bytes, out),
        T::F16 => float::f16(bytes, out),
        T::BF16 => float::bf16(bytes, out),
        T::F64 => float::f64(bytes, out),
        T::Q4_0 => each_block(bytes, out, legacy::q4_0),
        T::Q4_1 => each_block(bytes, out, legacy::q4_1),
        T::Q5_0 => each_block(bytes, out, legacy::q5_0),
        T::Q5_1 => each_block(bytes, out, legacy::q5_1),
        T::Q8_0 => each_block(bytes, out, legacy::q8_0),
        T::Q2K => each_block(bytes, out, k_quants::q2_k),
        T::Q3K => each_block(bytes, out, k_quants::q3_k),
        T::Q4K => each_block(bytes, out, k_quants::q4_k),
        T::Q5K => each_block(bytes, out, k_quants::q5_k),
        T::Q6K => each_block(bytes, out, k_quants::q6_k),
        T::Iq1S => each_block(bytes, out, iq1::iq1_s),
        T::Iq1M => each_block(bytes, out, iq1::iq1_m),
        T::Iq2Xxs => each_block(bytes, out, iq2::iq2_xxs),
        T::Iq2Xs => each_block(bytes, out, iq2::iq2_xs),
        T::Iq2S => each_block(bytes, out, iq2::iq2_s),
        T::Iq3Xxs => each_block(bytes, out, iq3::iq3_xxs),
        T::Iq3S => each_block(bytes, out, iq3::iq3_s),
        T::Iq4Nl => each_block(bytes, out, iq4::iq4_nl),
        T::Iq4Xs => each_block(bytes, out, iq4::iq4_xs),
        T::Tq1_0 => each_block(bytes, out, ternary::tq1_0),
        T::Tq2_0 => each_block(bytes, out, ternary::tq2_0),
        T::Mxfp4 => each_block(bytes, out, micro::mxfp4),
        T::Nvfp4 => each_block(bytes, out, micro::nvfp4),
        T::I8 | T::I16 | T::I32 | T::I64 | T::Q8_1 | T::Q8K | T::Q1_0 => {
            return Err(Error::NoDecoder { ty });
        }
    }
    Ok(())
}

/// Runs `block` over matching chunks; the caller has checked that the lengths agree.
fn each_block<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, tail) = bytes.as_chunks();
    let (outs, out_tail) = out.as_chunks_mut();
    assert!(tail.is_empty() && out_tail.is_empty() && blocks.len() == outs.len());
    for (bytes, out) in blocks.iter().zip(outs) {
        block(bytes, out);
    }
}

/// The half-precision number stored at `bytes[at..at + 2]`.
#[inline]
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_bits(u16_at(bytes, at)).to_f32()
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
