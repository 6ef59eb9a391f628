//! Floats to blocks, one file per family of formats.

mod iq2;
mod k_quants;
mod micro;
mod plain;

use crate::{Error, TensorType, widest::widest};

/// Encodes `x` into whole blocks of type `ty`, filling `out` exactly.
///
/// # Errors
///
/// [`Error::Length`] when `out` is not what `x.len()` weights take in whole blocks,
/// [`Error::NoEncoder`] for formats that Keid only reads, [`Error::NotFinite`] when a block format
/// is handed an infinity or a NaN.
pub fn encode(ty: TensorType, x: &[f32], out: &mut [u8]) -> Result<(), Error> {
    encode_weighted(ty, x, &[], out)
}

/// [`encode`] with an importance for each column: Q2_K, Q4_K and IQ2_XXS minimise the sum of
/// importance times squared error instead of the plain squared error.
///
/// `x` is any number of rows of `importance.len()` weights; empty importances mean equal ones.
///
/// # Errors
///
/// As [`encode`], and [`Error::Importance`] when the importances do not divide `x` into rows of
/// whole blocks or are not finite and non-negative.
pub fn encode_weighted(
    ty: TensorType,
    x: &[f32],
    importance: &[f32],
    out: &mut [u8],
) -> Result<(), Error> {
    use TensorType as T;
    let expected = ty.row_bytes(x.len());
    if expected != Some(out.len()) {
        return Err(Error::Length { ty, weights: x.len(), expected, bytes: out.len() });
    }
    check_importance(ty, x, importance)?;
    match ty {
        T::F32 => plain::f32(x, out),
        T::F16 => plain::f16(x, out),
        T::BF16 => plain::bf16(x, out),
        T::Q8_0 | T::Mxfp4 | T::Q2K | T::Q4K | T::Iq2Xxs => {
            check_finite(ty, x)?;
            blocks(ty, x, importance, out);
        }
        _ => return Err(Error::NoEncoder { ty }),
    }
    Ok(())
}

widest! {
    /// Encodes blocks of a checked length. The encoders are called by name: a function passed as a
    /// value would stay portable.
    fn blocks / blocks_portable(ty: TensorType, x: &[f32], importance: &[f32], out: &mut [u8]) {
        match ty {
            TensorType::Q8_0 => {
                for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                    plain::q8_0(x, out);
                }
            }
            TensorType::Mxfp4 => {
                for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                    micro::mxfp4(x, out);
                }
            }
            TensorType::Q2K => {
                for (x, w, out) in weighted_blocks(x, importance, out) {
                    k_quants::q2_k(x, w, out);
                }
            }
            TensorType::Q4K => {
                for (x, w, out) in weighted_blocks(x, importance, out) {
                    k_quants::q4_k(x, w, out);
                }
            }
            _ => {
                for (x, w, out) in weighted_blocks(x, importance, out) {
                    iq2::iq2_xxs(x, w, out);
                }
            }
        }
    }
}

/// Blocks of weights with their importances, which repeat with every row, and their places.
fn weighted_blocks<'a, const BYTES: usize>(
    x: &'a [f32],
    importance: &'a [f32],
    out: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; 256], &'a [f32; 256], &'a mut [u8; BYTES])> {
    static EQUAL: [f32; 256] = [1.0; 256];
    let row = importance.as_chunks::<256>().0;
    x.as_chunks().0.iter().zip(out.as_chunks_mut().0).enumerate().map(move |(i, (x, out))| {
        let weights = if row.is_empty() { &EQUAL } else { &row[i % row.len()] };
        // All importances may be zero where no token came by: any choice is as good, so the plain
        // error decides.
        let weights = if weights.iter().any(|w| *w > 0.0) { weights } else { &EQUAL };
        (x, weights, out)
    })
}

/// Half precision, with magnitudes beyond its range kept finite.
#[inline(always)]
fn f16_saturating(x: f32) -> half::f16 {
    let max = half::f16::MAX.to_f32();
    half::f16::from_f32(x.clamp(-max, max))
}

fn check_finite(ty: TensorType, x: &[f32]) -> Result<(), Error> {
    match x.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NotFinite { ty, index, value: x[index] }),
        None => Ok(()),
    }
}

fn check_importance(ty: TensorType, x: &[f32], importance: &[f32]) -> Result<(), Error> {
    let fail = |why| Err(Error::Importance { weights: x.len(), importance: importance.len(), why });
    if importance.is_empty() {
        return Ok(());
    }
    if !x.len().is_multiple_of(importance.len()) {
        return fail("the weights are no whole rows");
    }
    if !importance.len().is_multiple_of(ty.block_len()) {
        return fail("a row is no whole number of blocks");
    }
    if importance.iter().any(|v| !v.is_finite() || *v < 0.0) {
        return fail("an importance is negative or not finite");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_do_not_depend_on_the_machine() {
        let x: Vec<f32> = (0..2048).map(|i| ((i * i * 37 % 1009) as f32 - 504.0) * 1e-4).collect();
        let importance: Vec<f32> = (0..512).map(|i| 1.0 + (i * 11 % 17) as f32).collect();
        for ty in [
            TensorType::Q8_0,
            TensorType::Mxfp4,
            TensorType::Q2K,
            TensorType::Q4K,
            TensorType::Iq2Xxs,
        ] {
            let n = ty.row_bytes(x.len()).unwrap();
            let (mut portable, mut fast) = (vec![0; n], vec![1; n]);
            blocks_portable(ty, &x, &importance, &mut portable);
            blocks(ty, &x, &importance, &mut fast);
            assert_eq!(portable, fast, "{ty}");
        }
    }
}
