//! AVX-512 with VNNI and VBMI: one or two activation rows. More are multiplied as without VBMI, but IQ2_XXS is
//! unpacked faster, and Q8_0 is multiplied otherwise on AMD's processors.

mod gemm_q8_0;
mod gemv;
mod gemv_blocks;
mod gemv_q8_0;
mod iq2_xxs;
mod lanes;
mod q2_k;

use super::gemm::FEW_ROWS;
use super::{GEMM_ROWS, few, formats, matmul_vnni, vnni};
use crate::TensorType;
use crate::dot::{Acts, Out, Scratch, Weights};
use iq2_xxs::Iq2Xxs;
use q2_k::Q2K;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn matmul_zen(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    match *acts {
        Acts::Rounded { rows, index } if w.ty() == TensorType::Q8_0 && out.rows() > FEW_ROWS => {
            // SAFETY: this function has the features that that one needs, and this is its format.
            unsafe { gemm_q8_0::q8_0(w, rows, index, out, scratch) };
        }
        // SAFETY: the same features.
        _ => unsafe { matmul(w, acts, out, scratch) },
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,gfni,avx2,fma,f16c")]
pub(super) unsafe fn matmul(
    w: &Weights<'_>,
    acts: &Acts<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let Acts::Rounded { rows, index } = *acts else {
        // SAFETY: this function has the features that that one needs.
        return unsafe { matmul_vnni(w, acts, out, scratch) };
    };
    let is_few = out.rows() < GEMM_ROWS;
    // SAFETY: this function has the features that those need, and the format is each one's own.
    unsafe {
        match w.ty() {
            TensorType::Iq2Xxs if is_few && gemv::fits::<Iq2Xxs>(w.cols(), out.rows(), scratch) => {
                gemv::rows::<Iq2Xxs>(w, rows, index, out, scratch);
            }
            TensorType::Iq2Xxs => {
                let pack = iq2_xxs::pack;
                vnni::blocks::<formats::Iq2Xxs, true>(pack, w, (rows, index), out, scratch);
            }
            TensorType::Q2K if is_few && gemv::fits::<Q2K>(w.cols(), out.rows(), scratch) => {
                gemv::rows::<Q2K>(w, rows, index, out, scratch);
            }
            _ if !is_few || w.ty() == TensorType::Q2K => matmul_vnni(w, acts, out, scratch),
            _ if out.rows() == 2 && few::serves(w) => matmul_vnni(w, acts, out, scratch),
            TensorType::Q8_0 => gemv::rows::<gemv_q8_0::Q8_0>(w, rows, index, out, scratch),
            TensorType::Mxfp4 => gemv::rows::<gemv_q8_0::Mxfp4>(w, rows, index, out, scratch),
            TensorType::Q4K => gemv::rows::<formats::Q4K>(w, rows, index, out, scratch),
            TensorType::Q6K => gemv::rows::<formats::Q6K>(w, rows, index, out, scratch),
            // `Kernels::matmul` has compared the formats.
            ty => unreachable!("{ty} has no integer products"),
        }
    }
}
