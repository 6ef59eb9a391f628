//! Floats to blocks, one file per family of formats.

mod iq2;
mod k_quants;
mod micro;
mod plain;

use crate::{Error, TensorType};

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
/// As [`encode`], and [`Error::Importance`] when the importances do not divide `x` into rows of whole
/// blocks or are not finite and non-negative.
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
            match ty {
                T::Q8_0 => each_block(x, out, plain::q8_0),
                T::Mxfp4 => each_block(x, out, micro::mxfp4),
                T::Q2K => each_weighted(x, importance, out, k_quants::q2_k),
                T::Q4K => each_weighted(x, importance, out, k_quants::q4_k),
                _ => each_weighted(x, importance, out, iq2::iq2_xxs),
            }
        }
        _ => return Err(Error::NoEncoder { ty }),
    }
    Ok(())
}

/// Runs `block` over matching chunks; the caller has checked that the lengths agree.
fn each_block<const LEN: usize, const BYTES: usize>(
    x: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(x, out);
    }
}

/// [`each_block`] with the importances that belong to each block: they repeat with every row.
fn each_weighted<const BYTES: usize>(
    x: &[f32],
    importance: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; 256], &[f32; 256], &mut [u8; BYTES]),
) {
    let rows = importance.as_chunks::<256>().0;
    let equal = [1.0; 256];
    for (i, (x, out)) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0).enumerate() {
        let weights = if rows.is_empty() { &equal } else { &rows[i % rows.len()] };
        // All importances may be zero where no token came by: any choice is as good, so the plain
        // error decides.
        let weights = if weights.iter().any(|w| *w > 0.0) { weights } else { &equal };
        block(x, weights, out);
    }
}

/// Half precision, with magnitudes beyond its range kept finite.
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
