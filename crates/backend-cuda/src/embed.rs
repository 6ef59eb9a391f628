//! Rows in and out: token embeddings into the streams, logit rows out of them.

use backend::{Act, Result};

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Kernel, Launch};
use crate::matmul;
use crate::weight::Weight;

const GATHER_ROWS: Kernel = Kernel::new("embed", "gather_rows");

#[repr(C)]
#[derive(Clone, Copy)]
struct GatherArgs {
    x: DevicePtr,
    out: DevicePtr,
    step: DevicePtr,
    cols: u32,
    pad: u32,
}

// SAFETY: the struct of cuda/embed.cu, without padding.
unsafe impl Args for GatherArgs {}

pub(crate) fn embed(
    parts: &Parts<'_>,
    streams: &Act<Buffer>,
    table: &Weight,
    n_rows: usize,
) -> Result<()> {
    let table = table.matrix()?;
    let n_streams = streams.cols / table.cols();
    matmul::embed_rows(
        parts.gpu,
        parts.products,
        streams,
        table,
        parts.mirror.tokens(),
        n_rows,
        n_streams,
    )
}

pub(crate) fn gather_rows(
    parts: &Parts<'_>,
    out: &Act<Buffer>,
    x: &Act<Buffer>,
    n_logits: usize,
) -> Result<()> {
    let args = GatherArgs {
        x: x.buf.ptr(),
        out: out.buf.ptr(),
        step: parts.mirror.ptr(),
        cols: x.cols as u32,
        pad: 0,
    };
    let launch = Launch::grid2(x.cols.div_ceil(256).min(64), n_logits, 256);
    parts.gpu.launch(&GATHER_ROWS, launch, &args)
}
