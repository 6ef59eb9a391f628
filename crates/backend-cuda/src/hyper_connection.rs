//! Hyper-connections: mixing values, collapse and expand.

use backend::{Act, HcWeights, Result};

use crate::gpu::{Args, Buffer, DevicePtr, Kernel, Launch};
use crate::{Cuda, Parts};

const MIX: Kernel = Kernel::new("hyper_connection", "hc_mix");
const HEAD_MIX: Kernel = Kernel::new("hyper_connection", "hc_head_mix");
const COLLAPSE: Kernel = Kernel::new("hyper_connection", "hc_collapse");
const EXPAND: Kernel = Kernel::new("hyper_connection", "hc_expand");

#[repr(C)]
#[derive(Clone, Copy)]
struct MixArgs {
    logits: DevicePtr,
    base: DevicePtr,
    scale: DevicePtr,
    mix: DevicePtr,
    n_streams: u32,
    rounds: u32,
    eps: f32,
    pad: u32,
}

// SAFETY: the struct of cuda/hyper_connection.cu, without padding.
unsafe impl Args for MixArgs {}

#[repr(C)]
#[derive(Clone, Copy)]
struct StreamArgs {
    streams: DevicePtr,
    y: DevicePtr,
    out: DevicePtr,
    mix: DevicePtr,
    n_streams: u32,
    hidden: u32,
    mix_len: u32,
    pad: u32,
}

// SAFETY: the struct of cuda/hyper_connection.cu, without padding.
unsafe impl Args for StreamArgs {}

fn mix_args(
    parts: &Parts<'_>,
    mix: &Act<Buffer>,
    logits: &Act<Buffer>,
    w: &HcWeights<Cuda>,
) -> Result<MixArgs> {
    let hc = &parts.shape.config.hc;
    Ok(MixArgs {
        logits: logits.buf.ptr(),
        base: w.base.values()?,
        scale: w.scale.values()?,
        mix: mix.buf.ptr(),
        n_streams: hc.n_streams as u32,
        rounds: hc.sinkhorn_iterations as u32,
        eps: hc.eps,
        pad: 0,
    })
}

pub(crate) fn mix(
    parts: &Parts<'_>,
    mix: &Act<Buffer>,
    logits: &Act<Buffer>,
    w: &HcWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    parts.gpu.launch(&MIX, Launch::new(n_rows, 32), &mix_args(parts, mix, logits, w)?)
}

pub(crate) fn head_mix(
    parts: &Parts<'_>,
    mix: &Act<Buffer>,
    logits: &Act<Buffer>,
    w: &HcWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    parts.gpu.launch(&HEAD_MIX, Launch::new(n_rows, 32), &mix_args(parts, mix, logits, w)?)
}

pub(crate) fn collapse(
    parts: &Parts<'_>,
    out: &Act<Buffer>,
    streams: &Act<Buffer>,
    mix: &Act<Buffer>,
    n_rows: usize,
) -> Result<()> {
    let args = StreamArgs {
        streams: streams.buf.ptr(),
        y: DevicePtr::NULL,
        out: out.buf.ptr(),
        mix: mix.buf.ptr(),
        n_streams: parts.shape.config.hc.n_streams as u32,
        hidden: out.cols as u32,
        mix_len: mix.cols as u32,
        pad: 0,
    };
    parts.gpu.launch(&COLLAPSE, Launch::grid2(out.cols.div_ceil(256), n_rows, 256), &args)
}

pub(crate) fn expand(
    parts: &Parts<'_>,
    streams: &Act<Buffer>,
    y: &Act<Buffer>,
    mix: &Act<Buffer>,
    n_rows: usize,
) -> Result<()> {
    let args = StreamArgs {
        streams: streams.buf.ptr(),
        y: y.buf.ptr(),
        out: DevicePtr::NULL,
        mix: mix.buf.ptr(),
        n_streams: parts.shape.config.hc.n_streams as u32,
        hidden: y.cols as u32,
        mix_len: mix.cols as u32,
        pad: 0,
    };
    parts.gpu.launch(&EXPAND, Launch::grid2(y.cols.div_ceil(256), n_rows, 256), &args)
}
