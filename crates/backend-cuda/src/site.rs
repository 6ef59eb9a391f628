//! From one site to the next for many rows, in two launches that read the streams once each.

use backend::{Act, Result, Shape, SiteWeights};

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::weight::FloatType;
use crate::{Cuda, FEW_ROWS, Parts};

const SUMS_KERNEL: Kernel = Kernel::new("site_wide", "site_sums");
const MIX: Kernel = Kernel::new("site_wide", "site_mix");

/// As in `cuda/site_wide.cu`: streams, rows and channels of a block, and sums of a row.
const STREAMS: usize = 4;
const ROWS: usize = 16;
const CHUNK: usize = 256;
const SUMS: usize = 34;
const SHARED: usize = ROWS * (STREAMS * CHUNK + 4) * 4;

/// Sums over chunks of channels.
pub(crate) struct Workspace {
    sums: Buffer,
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        match shape.limits.step_rows {
            rows if rows > FEW_ROWS => 4 * rows * shape.config.hidden.div_ceil(CHUNK) * SUMS,
            _ => 16,
        }
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        Ok(Self { sums: gpu.alloc("site sums", Self::bytes(shape))? })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SiteArgs {
    streams: DevicePtr,
    y: DevicePtr,
    old_mix: DevicePtr,
    project: DevicePtr,
    base: DevicePtr,
    scale: DevicePtr,
    norm: DevicePtr,
    sums: DevicePtr,
    mix: DevicePtr,
    x: DevicePtr,
    hidden: u32,
    project_type: u32,
    rounds: u32,
    n_chunks: u32,
    hc_eps: f32,
    rms_eps: f32,
    n_rows: u32,
    unused: u32,
}

// SAFETY: the struct of cuda/site_wide.cu; the last field fills the padding.
unsafe impl Args for SiteArgs {}

/// Whether [`next`] can enter this site for so many rows.
pub(crate) fn has_next(parts: &Parts<'_>, site: &SiteWeights<Cuda>, n_rows: usize) -> bool {
    let plain = site.hc.project.matrix().is_ok_and(|project| project.floats().is_some());
    n_rows > FEW_ROWS
        && parts.shape.config.hc.n_streams == STREAMS
        && parts.gpu.description().shared_max >= SHARED
        && plain
}

/// Expands `y` with the mixing values that `mix` holds, if it is given, and enters `site`.
pub(crate) fn next(
    parts: &Parts<'_>,
    (x, mix): (&Act<Buffer>, &Act<Buffer>),
    streams: &Act<Buffer>,
    y: Option<&Act<Buffer>>,
    site: &SiteWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    let (hc, hidden) = (&parts.shape.config.hc, x.cols);
    let (project, project_type) =
        site.hc.project.matrix()?.floats().unwrap_or((DevicePtr::NULL, FloatType::F32));
    let n_chunks = hidden.div_ceil(CHUNK);
    let args = SiteArgs {
        streams: streams.buf.ptr(),
        y: y.map_or(DevicePtr::NULL, |y| y.buf.ptr()),
        old_mix: mix.buf.ptr(),
        project,
        base: site.hc.base.values()?,
        scale: site.hc.scale.values()?,
        norm: site.norm.values()?,
        sums: parts.site.sums.ptr(),
        mix: mix.buf.ptr(),
        x: x.buf.ptr(),
        hidden: hidden as u32,
        project_type: project_type as u32,
        rounds: hc.sinkhorn_iterations as u32,
        n_chunks: n_chunks as u32,
        hc_eps: hc.eps,
        rms_eps: parts.shape.config.rms_eps,
        n_rows: n_rows as u32,
        unused: 0,
    };
    let grid = Launch::grid2(n_chunks, n_rows.div_ceil(ROWS), 256);
    parts.gpu.launch(&SUMS_KERNEL, grid.shared(SHARED), &args)?;
    parts.gpu.launch(&MIX, Launch::new(n_rows, 256), &args)
}
