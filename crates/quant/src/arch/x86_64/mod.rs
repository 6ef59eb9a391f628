//! AVX2 (with FMA and F16C); AVX-512 with VNNI, and with VBMI and GFNI; AMX.

mod amx;
mod avx512;
mod expand;
mod few;
mod float;
mod float_wide;
mod formats;
mod gemm;
mod gemm_q8_0;
mod gemv;
mod gemv_iq2_xxs;
mod lanes;
mod quantize;
pub(crate) mod round_trip;
mod vnni;
mod wide;

use std::arch::x86_64::__cpuid;

use super::Isa;
use crate::TensorType;
use crate::arch::vector;
use crate::dot::{Acts, Out, PoolEntry, Scratch, WeightedSum, Weights};
use formats::{Iq2Xxs, Mxfp4, Q2K, Q2KFolded, Q4K, Q6K};

static AVX2: Isa = Isa {
    name: "avx2",
    quantize: quantize::quantize,
    matmul,
    dot: float::dot,
    exp_sum,
    scale_max,
    expand: expand::expand,
    swiglu,
    pool,
    weighted_sum,
};

static VNNI: Isa = Isa {
    name: "avx512-vnni",
    matmul: matmul_vnni,
    exp_sum: wide::exp_sum,
    scale_max: wide::scale_max,
    swiglu: wide::swiglu,
    pool: wide::pool,
    weighted_sum: wide::weighted_sum,
    ..AVX2
};

static VBMI: Isa = Isa { name: "avx512-vbmi", matmul: avx512::matmul, ..VNNI };

/// Where additions of 512 bits have more units than multiplications.
static ZEN: Isa = Isa { name: "avx512-zen", matmul: avx512::matmul_zen, ..VNNI };

static AMX: Isa = Isa { name: "amx-int8", matmul: amx::matmul, ..VNNI };

/// The code of [`AMX`] on any machine with AVX-512.
#[cfg(test)]
static AMX_EMULATED: Isa = Isa { name: "amx-emulated", matmul: amx::emulated, ..VNNI };

/// The tables that this machine can run, slowest first.
pub(super) fn available() -> Vec<&'static Isa> {
    let mut tables = Vec::new();
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    if avx2 {
        tables.push(&AVX2);
    }
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw");
    if avx2 && avx512 && is_x86_feature_detected!("avx512vnni") {
        tables.push(&VNNI);
        if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("gfni") {
            #[cfg(test)]
            tables.push(&AMX_EMULATED);
            tables.push(&VBMI);
            if cfg!(test) || is_amd() {
                tables.push(&ZEN);
            }
            if amx::usable() {
                tables.push(&AMX);
            }
        }
    }
    tables
}

fn is_amd() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
}

/// Few activation rows are multiplied straight from the stored blocks; from this many on it pays to
/// unpack the weights first.
const GEMM_ROWS: usize = 3;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matmul(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>, scratch: &mut Scratch) {
    let Acts::Rounded { rows, index } = *acts else {
        // SAFETY: this function has the features that that one needs.
        return unsafe { float::matmul(w, acts, out) };
    };
    let few = out.rows() < GEMM_ROWS;
    // SAFETY: this function has the features that those need, and the format is each one's own.
    unsafe {
        match w.ty() {
            TensorType::Q8_0 if few => gemv::q8_0(w, rows, index, out),
            TensorType::Q8_0 => gemm_q8_0::q8_0(w, rows, index, out, scratch),
            TensorType::Mxfp4 if few => gemv::blocks::<Mxfp4>(w, rows, index, out),
            TensorType::Mxfp4 => gemm::blocks::<Mxfp4>(w, rows, index, out, scratch),
            TensorType::Q2K if few => gemv::blocks::<Q2K>(w, rows, index, out),
            TensorType::Q2K => gemm::blocks::<Q2K>(w, rows, index, out, scratch),
            TensorType::Q4K if few => gemv::blocks::<Q4K>(w, rows, index, out),
            TensorType::Q4K => gemm::blocks::<Q4K>(w, rows, index, out, scratch),
            TensorType::Q6K if few => gemv::blocks::<Q6K>(w, rows, index, out),
            TensorType::Q6K => gemm::blocks::<Q6K>(w, rows, index, out, scratch),
            TensorType::Iq2Xxs if few => gemv_iq2_xxs::iq2_xxs(w, rows, index, out),
            TensorType::Iq2Xxs => gemm::blocks::<Iq2Xxs>(w, rows, index, out, scratch),
            // `Kernels::matmul` has compared the formats.
            ty => unreachable!("{ty} has no int8 products"),
        }
    }
}

/// One or two activation rows wait for memory whatever the instructions, so AVX2 serves them.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn matmul_vnni(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>, scratch: &mut Scratch) {
    let (rows, index) = match *acts {
        Acts::Rounded { rows, index }
            if (2..=gemm::FEW_ROWS).contains(&out.rows()) && few::serves(w) =>
        {
            // SAFETY: this function has the features that those need, and the format is each one's own.
            return unsafe {
                match w.ty() {
                    TensorType::Q8_0 => few::rows::<few::Q8_0>(w, (rows, index), out, scratch),
                    _ => few::rows::<few::Mxfp4>(w, (rows, index), out, scratch),
                }
            };
        }
        Acts::Rounded { rows, index } if out.rows() >= GEMM_ROWS => (rows, index),
        // SAFETY: this function has the features that that one needs.
        Acts::F32 { .. } => return unsafe { float_wide::matmul(w, acts, out) },
        // SAFETY: AVX2 is among this function's features.
        _ => return unsafe { matmul(w, acts, out, scratch) },
    };
    // SAFETY: this function has the features that those need, and the format is each one's own.
    unsafe {
        match w.ty() {
            TensorType::Q8_0 => vnni::q8_0(w, rows, index, out, scratch),
            TensorType::Mxfp4 => {
                vnni::blocks::<Mxfp4, false>(gemm::pack::<Mxfp4>, w, (rows, index), out, scratch)
            }
            TensorType::Q2K => vnni::blocks::<Q2KFolded, false>(
                gemm::pack::<Q2KFolded>,
                w,
                (rows, index),
                out,
                scratch,
            ),
            TensorType::Q4K => {
                vnni::blocks::<Q4K, false>(gemm::pack::<Q4K>, w, (rows, index), out, scratch)
            }
            TensorType::Q6K => {
                vnni::blocks::<Q6K, false>(gemm::pack::<Q6K>, w, (rows, index), out, scratch)
            }
            TensorType::Iq2Xxs => {
                vnni::blocks::<Iq2Xxs, false>(gemm::pack::<Iq2Xxs>, w, (rows, index), out, scratch)
            }
            // `Kernels::matmul` has compared the formats.
            ty => unreachable!("{ty} has no integer products"),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    vector::exp_sum(x, max)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale_max(x: &mut [f32], scale: f32, least: f32) -> f32 {
    vector::scale_max(x, scale, least)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn swiglu(gate: &mut [f32], up: &[f32], clamp: f32, scale: f32) {
    vector::swiglu(gate, up, clamp, scale);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pool(entry: &PoolEntry<'_>, sum: &mut [f32], weighted: &mut [f32]) {
    vector::pool(entry, sum, weighted);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn weighted_sum(sum: &WeightedSum<'_>, out: &mut [f32]) {
    vector::weighted_sum::<4>(sum, out);
}
