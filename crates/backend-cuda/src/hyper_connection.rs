//! Hyper-connections: mixing values, collapse and expand.

use backend::{Act, HcWeights, HeadWeights, Result, Shape, SiteWeights};

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::matmul::Records;
use crate::weight::FloatType;
use crate::{Cuda, FEW_ROWS, Parts};

const MIX: Kernel = Kernel::new("hyper_connection", "hc_mix");
const HEAD_MIX: Kernel = Kernel::new("hyper_connection", "hc_head_mix");
const COLLAPSE: Kernel = Kernel::new("hyper_connection", "hc_collapse");
const EXPAND_SUMS: Kernel = Kernel::new("hyper_connection", "hc_expand_sums");
const MIX_NORM: Kernel = Kernel::new("hyper_connection", "hc_mix_norm");
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

/// Channels of a chunk, and places for the sums that it leaves, as in cuda/site_few.cuh.
const CHUNK: usize = 32;
const SUMS: usize = 36;
/// Blocks that share the rows of a chunk, at most.
const ROW_BLOCKS: usize = 4;
/// Streams that the fused kernels are made for: every published model's.
const STREAMS: usize = 4;

/// Sums over chunks of channels.
pub(crate) struct Workspace {
    sums: Buffer,
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let rows = shape.limits.step_rows.max(shape.limits.logit_rows).min(FEW_ROWS);
        4 * rows * shape.config.hidden.div_ceil(CHUNK) * SUMS
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        Ok(Self { sums: gpu.alloc("hc_sums", Self::bytes(shape))? })
    }
}

/// A site for few rows: `NextArgs` of `cuda/site_few.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct NextArgs {
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
    rounded: Records,
    step: DevicePtr,
    hidden: u32,
    project_type: u32,
    rounds: u32,
    n_chunks: u32,
    hc_eps: f32,
    rms_eps: f32,
    n_rows: u32,
    over_hidden: f32,
}

// SAFETY: the struct of cuda/site_few.cuh, without padding.
unsafe impl Args for NextArgs {}

impl NextArgs {
    /// Whether a product of one row with so many results can leave them in the streams.
    pub(crate) fn takes(&self, results: usize) -> bool {
        self.n_rows == 1 && results == self.hidden as usize && results.is_multiple_of(CHUNK)
    }

    /// Chunks of channels, each of which a block of such a product takes.
    pub(crate) fn chunks(&self) -> usize {
        self.n_chunks as usize
    }
}

/// Whether sites with these weights are entered in two launches for so many rows.
pub(crate) fn is_fused(parts: &Parts<'_>, w: &HcWeights<Cuda>, n_rows: usize) -> bool {
    let plain = w.project.matrix().is_ok_and(|project| project.floats().is_some());
    n_rows <= FEW_ROWS && parts.shape.config.hc.n_streams == STREAMS && plain
}

/// The way into `site`, from a sublayer whose site has left `mix`.
pub(crate) fn site(
    parts: &Parts<'_>,
    (x, mix): (&Act<Buffer>, &Act<Buffer>),
    streams: &Act<Buffer>,
    site: &SiteWeights<Cuda>,
    n_rows: usize,
) -> Result<NextArgs> {
    let mut args = next_args(parts, (x, streams), &site.hc, site.norm.values()?, n_rows)?;
    args.old_mix = mix.buf.ptr();
    args.mix = mix.buf.ptr();
    Ok(args)
}

/// Expands `y`, if it is given, and leaves the sums of the site.
pub(crate) fn leave_sums(
    parts: &Parts<'_>,
    site: &NextArgs,
    y: Option<&Act<Buffer>>,
) -> Result<()> {
    let args = NextArgs { y: y.map_or(DevicePtr::NULL, |y| y.buf.ptr()), ..*site };
    let launch = Launch::grid2(args.chunks(), (args.n_rows as usize).min(ROW_BLOCKS), 256);
    parts.gpu.launch(&EXPAND_SUMS, launch, &args)
}

/// Collapses, norms and rounds, behind [`leave_sums`]. `mixes`: the mixing values are written too, where no
/// other kernel does that.
pub(crate) fn enter(parts: &Parts<'_>, site: &NextArgs, mixes: bool) -> Result<()> {
    let (hidden, n_rows) = (site.hidden as usize, site.n_rows as usize);
    let rounded = parts.products.leave_records(site.x, (1, hidden), n_rows);
    let args = NextArgs { rounded, ..*site };
    let blocks = hidden.div_ceil(256) + usize::from(mixes);
    parts.gpu.launch(&MIX_NORM, Launch::grid2(blocks, n_rows, 256), &args)
}

/// Collapses and norms the streams of the rows that want logits.
pub(crate) fn head(
    parts: &Parts<'_>,
    x: &Act<Buffer>,
    streams: &Act<Buffer>,
    w: &HeadWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    let args = next_args(parts, (x, streams), &w.hc, w.norm.values()?, n_rows)?;
    leave_sums(parts, &args, None)?;
    enter(parts, &args, false)
}

fn next_args(
    parts: &Parts<'_>,
    (x, streams): (&Act<Buffer>, &Act<Buffer>),
    w: &HcWeights<Cuda>,
    norm: DevicePtr,
    n_rows: usize,
) -> Result<NextArgs> {
    let (hc, hidden) = (&parts.shape.config.hc, x.cols);
    let (project, project_type) =
        w.project.matrix()?.floats().unwrap_or((DevicePtr::NULL, FloatType::F32));
    Ok(NextArgs {
        streams: streams.buf.ptr(),
        project,
        base: w.base.values()?,
        scale: w.scale.values()?,
        norm,
        sums: parts.hyper_connection.sums.ptr(),
        x: x.buf.ptr(),
        step: parts.mirror.ptr(),
        hidden: hidden as u32,
        project_type: project_type as u32,
        rounds: hc.sinkhorn_iterations as u32,
        n_chunks: hidden.div_ceil(CHUNK) as u32,
        hc_eps: hc.eps,
        rms_eps: parts.shape.config.rms_eps,
        n_rows: n_rows as u32,
        over_hidden: 1.0 / hidden as f32,
        ..NextArgs::default()
    })
}
