//! Rotation of the last channels of every head.

use backend::{Act, Result};
use model::Rope;

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Kernel, Launch};

const ROPE_TAIL: Kernel = Kernel::new("rope_tail", "rope_tail");

/// Pairs that `cuda/rope.cuh` has room for.
pub(crate) const PAIRS_MAX: usize = 64;

/// A rotation as kernels take it: `Rope` of `cuda/rope.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RopeArgs {
    turns: [f64; PAIRS_MAX],
    n_pairs: u32,
    inverse: u32,
}

impl RopeArgs {
    /// For kernels that are not to rotate.
    pub(crate) fn none() -> Self {
        Self { turns: [0.0; PAIRS_MAX], n_pairs: 0, inverse: 0 }
    }

    pub(crate) fn new(rope: &Rope, inverse: bool) -> Self {
        let mut turns = [0.0; PAIRS_MAX];
        for (turns, radians) in turns.iter_mut().zip(&rope.inv_freq) {
            *turns = radians / std::f64::consts::TAU;
        }
        Self { turns, n_pairs: rope.inv_freq.len() as u32, inverse: u32::from(inverse) }
    }
}

impl RopeArgs {
    /// Channels that are rotated.
    pub(crate) fn dim(&self) -> usize {
        2 * self.n_pairs as usize
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RopeTailArgs {
    rope: RopeArgs,
    x: DevicePtr,
    step: DevicePtr,
    n_heads: u32,
    head_dim: u32,
}

// SAFETY: the struct of cuda/rope_tail.cu, without padding.
unsafe impl Args for RopeTailArgs {}

pub(crate) fn rope_tail(
    parts: &Parts<'_>,
    x: &Act<Buffer>,
    head_dim: usize,
    rope: RopeArgs,
    n_rows: usize,
) -> Result<()> {
    let args = RopeTailArgs {
        rope,
        x: x.buf.ptr(),
        step: parts.mirror.ptr(),
        n_heads: (x.cols / head_dim) as u32,
        head_dim: head_dim as u32,
    };
    parts.gpu.launch(&ROPE_TAIL, Launch::new(n_rows, 256), &args)
}
