//! A token for each of some rows of logits, chosen where they lie.

use backend::{Act, Draw, Result, Shape};

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};

const BEST: Kernel = Kernel::new("sample", "sample_best");
const DRAW: Kernel = Kernel::new("sample", "sample_draw");
/// Rows of a launch, and blocks that look for a row's best token (`cuda/sample.cu`).
const ROWS: usize = 16;
const BEST_BLOCKS: usize = 32;

/// Best tokens of parts of rows, and chosen tokens.
pub(crate) struct Workspace {
    best: Buffer,
    best_ids: Buffer,
    tokens: Buffer,
}

fn sizes(shape: &Shape) -> [usize; 3] {
    [4 * ROWS * BEST_BLOCKS, 4 * ROWS * BEST_BLOCKS, 4 * shape.limits.logit_rows.max(4)]
}

impl Workspace {
    /// Bytes that [`Workspace::new`] allocates.
    pub(crate) fn bytes(shape: &Shape) -> usize {
        sizes(shape).into_iter().sum()
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let [best, best_ids, tokens] = sizes(shape);
        Ok(Self {
            best: gpu.alloc("best tokens", best)?,
            best_ids: gpu.alloc("best tokens", best_ids)?,
            tokens: gpu.alloc("chosen tokens", tokens)?,
        })
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct DrawArgs {
    row: u32,
    greedy: u32,
    top_k: u32,
    share: u32,
    scale: f32,
    floor: f32,
    top_p: f32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SampleArgs {
    logits: DevicePtr,
    best: DevicePtr,
    best_ids: DevicePtr,
    tokens: DevicePtr,
    n_vocab: u32,
    unused: u32,
    draws: [DrawArgs; ROWS],
}

// SAFETY: the struct of cuda/sample.cu, without padding.
unsafe impl Args for SampleArgs {}

impl DrawArgs {
    fn new((row, draw): &(u32, Draw)) -> Self {
        Self {
            row: *row,
            greedy: u32::from(draw.is_greedy()),
            top_k: u32::try_from(draw.top_k).unwrap_or(0),
            share: (draw.share * (1u32 << 24) as f32) as u32,
            scale: draw.scale(),
            floor: draw.floor(),
            top_p: draw.top_p,
            unused: 0,
        }
    }
}

/// Chooses `tokens[i]` from row `draws[i].0` of the logits, and waits for it.
pub(crate) fn sample(
    gpu: &Gpu,
    ws: &Workspace,
    logits: &Act<Buffer>,
    draws: &[(u32, Draw)],
    tokens: &mut [u32],
) -> Result<()> {
    for (i, part) in draws.chunks(ROWS).enumerate() {
        let mut args = SampleArgs {
            logits: logits.buf.ptr(),
            best: ws.best.ptr(),
            best_ids: ws.best_ids.ptr(),
            tokens: ws.tokens.ptr().add(4 * ROWS * i),
            n_vocab: logits.cols as u32,
            unused: 0,
            draws: [DrawArgs::default(); ROWS],
        };
        args.draws.iter_mut().zip(part).for_each(|(to, draw)| *to = DrawArgs::new(draw));
        gpu.launch(&BEST, Launch::grid2(BEST_BLOCKS, part.len(), 256), &args)?;
        gpu.launch(&DRAW, Launch::new(part.len(), 1024), &args)?;
    }
    gpu.download(&ws.tokens, 0, bytemuck::cast_slice_mut(&mut tokens[..draws.len()]))
}
