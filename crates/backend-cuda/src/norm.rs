//! RMS norms, with and without weights.

use backend::{Act, Result};

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};

const RMS_NORM: Kernel = Kernel::new("norm", "rms_norm");

#[repr(C)]
#[derive(Clone, Copy)]
struct NormArgs {
    x: DevicePtr,
    weights: DevicePtr,
    out: DevicePtr,
    cols: u32,
    eps: f32,
}

// SAFETY: the struct of cuda/norm.cu, without padding.
unsafe impl Args for NormArgs {}

/// Norms every `group` channels of `n_rows` rows. `weights` may be null.
pub(crate) fn rms_norm(
    gpu: &Gpu,
    out: &Act<Buffer>,
    x: &Act<Buffer>,
    weights: DevicePtr,
    (group, eps): (usize, f32),
    n_rows: usize,
) -> Result<()> {
    let args = NormArgs { x: x.buf.ptr(), weights, out: out.buf.ptr(), cols: group as u32, eps };
    gpu.launch(&RMS_NORM, Launch::new(n_rows * x.cols / group, 256), &args)
}
