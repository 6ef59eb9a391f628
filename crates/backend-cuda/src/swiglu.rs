//! Clamped SwiGLU and the sum of two activations.

use backend::{Act, Result};

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};

const SWIGLU: Kernel = Kernel::new("swiglu", "swiglu");
const ADD: Kernel = Kernel::new("swiglu", "add");

#[repr(C)]
#[derive(Clone, Copy)]
struct ElementArgs {
    to: DevicePtr,
    from: DevicePtr,
    n: u64,
    clamp: f32,
    pad: u32,
}

// SAFETY: the struct of cuda/swiglu.cu, without padding.
unsafe impl Args for ElementArgs {}

pub(crate) fn swiglu(
    gpu: &Gpu,
    gate: &Act<Buffer>,
    up: &Act<Buffer>,
    clamp: f32,
    n_rows: usize,
) -> Result<()> {
    elements(gpu, &SWIGLU, gate, up, clamp, n_rows)
}

pub(crate) fn add(gpu: &Gpu, acc: &Act<Buffer>, x: &Act<Buffer>, n_rows: usize) -> Result<()> {
    elements(gpu, &ADD, acc, x, 0.0, n_rows)
}

fn elements(
    gpu: &Gpu,
    kernel: &Kernel,
    to: &Act<Buffer>,
    from: &Act<Buffer>,
    clamp: f32,
    n_rows: usize,
) -> Result<()> {
    let n = n_rows * to.cols;
    let args = ElementArgs { to: to.buf.ptr(), from: from.buf.ptr(), n: n as u64, clamp, pad: 0 };
    gpu.launch(kernel, Launch::new(n.div_ceil(256), 256), &args)
}
