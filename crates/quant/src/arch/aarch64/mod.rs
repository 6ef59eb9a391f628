//! NEON: plain, with the dot-product instructions (`sdot`), and with the matrix ones (`smmla`).
//!
//! Every 64-bit Arm processor runs the first table; run-time detection finds the others.

mod float;
mod formats;
mod gemm;
mod gemv;
mod lanes;
mod mac;
mod planes;
mod quantize;

use std::arch::is_aarch64_feature_detected;

use super::Isa;
use crate::TensorType;
use crate::arch::vector;
use crate::dot::{Acts, Out, Scratch, Weights};
use formats::{Format, Iq2Xxs, Mxfp4, Q2K, Q4K, Q6K, Q8_0};
use mac::{Dot, Mac, Matrix, Plain};

/// Elementwise kernels are those of the portable table: NEON is part of the target, so they were
/// compiled for it.
static NEON: Isa = Isa {
    name: "neon",
    quantize: quantize::quantize,
    matmul: matmul_neon,
    dot: float::dot,
    exp_sum: vector::exp_sum,
    scale_max: vector::scale_max,
    expand: vector::expand,
    swiglu: vector::swiglu,
    pool: vector::pool,
    weighted_sum: vector::weighted_sum::<4>,
};

static DOT: Isa = Isa { name: "neon-dotprod", matmul: matmul_dot, ..NEON };

static MATRIX: Isa = Isa { name: "neon-i8mm", matmul: matmul_matrix, ..NEON };

/// The tables that this machine can run, slowest first.
pub(super) fn available() -> Vec<&'static Isa> {
    let mut tables = vec![&NEON];
    if is_aarch64_feature_detected!("dotprod") {
        tables.push(&DOT);
        if is_aarch64_feature_detected!("i8mm") {
            tables.push(&MATRIX);
        }
    }
    tables
}

/// Few activation rows are multiplied straight from the stored blocks; from this many on it pays to
/// unpack the weights first.
const GEMM_ROWS: usize = 3;

#[target_feature(enable = "neon")]
unsafe fn matmul_neon(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>, scratch: &mut Scratch) {
    // SAFETY: these kernels need what every processor of this architecture has.
    unsafe { matmul::<Plain, Plain>(w, acts, out, scratch) }
}

#[target_feature(enable = "neon")]
unsafe fn matmul_dot(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>, scratch: &mut Scratch) {
    // SAFETY: the table is listed only where the dot-product instructions exist.
    unsafe { matmul::<Dot, Dot>(w, acts, out, scratch) }
}

/// One or two activation rows would leave half of a matrix instruction idle, so `sdot` serves them.
#[target_feature(enable = "neon")]
unsafe fn matmul_matrix(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    // SAFETY: the table is listed only where both kinds of instructions exist.
    unsafe { matmul::<Dot, Matrix>(w, acts, out, scratch) }
}

/// Products by `V` for few activation rows and by `M` for many.
///
/// # Safety
/// The processor must have the instructions of both.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn matmul<V: Mac, M: Mac>(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    // SAFETY: the instructions are the caller's promise, and each arm names the format of `w`.
    unsafe {
        match w.ty() {
            TensorType::Q8_0 => format::<Q8_0, V, M, 8>(w, acts, out, scratch),
            TensorType::Mxfp4 => format::<Mxfp4, V, M, 8>(w, acts, out, scratch),
            TensorType::Q2K => format::<Q2K, V, M, 4>(w, acts, out, scratch),
            TensorType::Q4K => format::<Q4K, V, M, 4>(w, acts, out, scratch),
            TensorType::Q6K => format::<Q6K, V, M, 4>(w, acts, out, scratch),
            TensorType::Iq2Xxs => format::<Iq2Xxs, V, M, 4>(w, acts, out, scratch),
            _ => float::matmul(w, acts, out),
        }
    }
}

/// `R` weight rows go side by side where there is one activation row.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn format<F: Format, V: Mac, M: Mac, const R: usize>(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let Acts::Rounded { rows, index } = *acts else {
        // `Kernels::matmul` has compared the formats.
        unreachable!("{} meets rounded activations only", w.ty());
    };
    // SAFETY: promised by the caller.
    unsafe {
        match out.rows() {
            1 => gemv::blocks::<F, V, 1, R>(w, rows, index, out),
            2 => gemv::blocks::<F, V, 2, 4>(w, rows, index, out),
            GEMM_ROWS.. => gemm::blocks::<F, M>(w, rows, index, out, scratch),
            0 => (),
        }
    }
}
