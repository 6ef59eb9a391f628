//! Norm and rotation of the heads of many rows, in place.

use backend::{Act, Result};

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Kernel, Launch};
use crate::rope_tail::RopeArgs;

const FINISH: Kernel = Kernel::new("heads_wide", "finish_heads_wide");
/// Channels of a head, at most.
const DIM_MAX: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct HeadsArgs {
    rope: RopeArgs,
    x: DevicePtr,
    step: DevicePtr,
    n_heads: u32,
    head_dim: u32,
    normed: u32,
    eps: f32,
}

// SAFETY: the struct of cuda/heads_wide.cu, without padding.
unsafe impl Args for HeadsArgs {}

/// Whether heads of `dim` channels can be finished in fours.
pub(crate) fn can(dim: usize, rope_dim: usize) -> bool {
    dim <= DIM_MAX && dim.is_multiple_of(4) && rope_dim.is_multiple_of(4)
}

/// Norms every head when `eps` is given, and rotates its tail.
pub(crate) fn finish(
    parts: &Parts<'_>,
    x: &Act<Buffer>,
    head_dim: usize,
    rope: RopeArgs,
    eps: Option<f32>,
    n_rows: usize,
) -> Result<()> {
    let args = HeadsArgs {
        rope,
        x: x.buf.ptr(),
        step: parts.mirror.ptr(),
        n_heads: (x.cols / head_dim) as u32,
        head_dim: head_dim as u32,
        normed: u32::from(eps.is_some()),
        eps: eps.unwrap_or(0.0),
    };
    parts.gpu.launch(&FINISH, Launch::new(n_rows, 256), &args)
}
