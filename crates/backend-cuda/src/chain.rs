//! Chains: everything that one row needs between two kernels of attention as one launch, in stages
//! (`cuda/chain/stages.cuh`). Operations add stages; whatever else is launched comes after them.

use backend::Result;

use crate::gpu::{Args, DevicePtr, Gpu, Kernel, Launch, args_bytes};
use crate::matmul::{CHUNK_ROWS, Layout, Matrix, ring};

/// As in `cuda/chain/stages.cuh`.
const MAX_STAGES: usize = 16;
const WORDS: usize = 600;
const MAX_MATRICES: usize = 24;
/// Slots of a unit of work.
pub(crate) const MAX_UNIT_SLOTS: usize = 32;
/// Bytes of the activations of a product.
pub(crate) const ACTS_BYTES: usize = 40960;
const DEPTH: usize = 2;
const SOURCE_BYTES: usize = 32;
const MAX_USED: usize = 16;
const THREADS: u32 = 512;
/// Slots, matrices, activations, sums, levels, experts and their weights, sums of a reduction.
const SHARED: usize = ring::ring_bytes(DEPTH)
    + MAX_MATRICES * SOURCE_BYTES
    + ACTS_BYTES
    + 2 * MAX_UNIT_SLOTS * CHUNK_ROWS * 4
    + ring::GRID_BYTES
    + 2 * MAX_USED * 4
    + 32 * 4;

/// What a stage does, as `STAGE_*` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Expand = 0,
    Collapse = 1,
    Router = 2,
    Gemv = 3,
    Up = 4,
    Down = 5,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Stage {
    kind: u32,
    at: u32,
    n_units: u32,
    first_matrix: u32,
    n_matrices: u32,
    chooses: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ChainArgs {
    stages: [Stage; MAX_STAGES],
    words: [u64; WORDS],
    grid: DevicePtr,
    counters: DevicePtr,
    first: u32,
    last: u32,
}

// SAFETY: the struct of cuda/chain/stages.cuh, without padding.
unsafe impl Args for ChainArgs {}

/// How the activations of a product come to shared memory.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Take {
    pub(crate) x: DevicePtr,
    pub(crate) norm: DevicePtr,
    pub(crate) from_32: DevicePtr,
    pub(crate) from_256: DevicePtr,
    pub(crate) first_32: u32,
    pub(crate) n_32: u32,
    pub(crate) at_32: u32,
    pub(crate) first_256: u32,
    pub(crate) n_256: u32,
    pub(crate) at_256: u32,
    pub(crate) cols: u32,
    pub(crate) eps: f32,
}

// SAFETY: the struct of cuda/chain/stages.cuh, without padding.
unsafe impl Args for Take {}

/// The kernel for a set of layouts: those of a published file's experts beside Q8_0 and F16.
fn kernel(layouts: impl Iterator<Item = Layout> + Clone) -> Option<Kernel> {
    const KERNELS: [(&str, &[Layout]); 3] = [
        ("chain_q2", &[Layout::Iq2Xxs, Layout::Q2K]),
        ("chain_q4", &[Layout::Q4K]),
        ("chain_mxfp4", &[Layout::Mxfp4]),
    ];
    let takes = |own: &[Layout]| {
        let mut layouts = layouts.clone();
        layouts.all(|l| matches!(l, Layout::Q8_0 | Layout::F16) || own.contains(&l))
    };
    let (name, _) = KERNELS.into_iter().find(|(_, own)| takes(own))?;
    Some(Kernel::new("chain/chain", name))
}

/// A stage and its arguments.
pub(crate) struct Work<'a> {
    kind: Kind,
    args: Vec<u8>,
    matrices: Vec<&'a Matrix>,
    n_units: usize,
    chooses: bool,
}

impl<'a> Work<'a> {
    pub(crate) fn new<A: Args>(kind: Kind, args: &A) -> Self {
        let work =
            Self { kind, args: Vec::new(), matrices: Vec::new(), n_units: 0, chooses: false };
        work.and(args)
    }

    /// A product's units and matrices.
    pub(crate) fn product(mut self, n_units: usize, matrices: Vec<&'a Matrix>) -> Self {
        (self.n_units, self.matrices) = (n_units, matrices);
        self
    }

    /// More arguments behind the first.
    pub(crate) fn and<A: Args>(mut self, args: &A) -> Self {
        self.args.extend_from_slice(args_bytes(args));
        self
    }

    /// The choice of experts, whose arguments are the last, is part of the stage.
    pub(crate) fn choosing(mut self) -> Self {
        self.chooses = true;
        self
    }
}

/// Where chains find the grid of IQ2_XXS and count their blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) grid: DevicePtr,
    pub(crate) counters: DevicePtr,
}

/// Stages that are not launched yet.
#[derive(Default)]
pub(crate) struct Pending {
    places: Option<Places>,
    stages: Vec<Stage>,
    words: Vec<u64>,
    layouts: Vec<Layout>,
    n_matrices: usize,
}

impl Pending {
    pub(crate) fn enable(&mut self, places: Places) {
        self.places = Some(places);
    }

    fn is_full(&self, work: &Work<'_>) -> bool {
        let layouts = || work.matrices.iter().map(|m| m.layout());
        self.stages.len() == MAX_STAGES
            || self.words.len() + work.args.len().div_ceil(8) > WORDS
            || self.n_matrices + work.matrices.len() > MAX_MATRICES
            || kernel(self.layouts.iter().copied().chain(layouts())).is_none()
    }

    fn push(&mut self, work: &Work<'_>) {
        self.stages.push(Stage {
            kind: work.kind as u32,
            at: self.words.len() as u32,
            n_units: work.n_units as u32,
            first_matrix: self.n_matrices as u32,
            n_matrices: work.matrices.len() as u32,
            chooses: u32::from(work.chooses),
        });
        self.n_matrices += work.matrices.len();
        self.layouts.extend(work.matrices.iter().map(|m| m.layout()));
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        self.words.extend(work.args.chunks(8).map(word));
    }

    /// What there is to launch; nothing is left.
    fn take(&mut self) -> Option<(Kernel, ChainArgs)> {
        let (Some(places), false) = (self.places, self.stages.is_empty()) else { return None };
        let kernel = kernel(self.layouts.iter().copied())?;
        let mut args = ChainArgs {
            stages: [Stage::default(); MAX_STAGES],
            words: [0; WORDS],
            grid: places.grid,
            counters: places.counters,
            first: 0,
            last: self.stages.len() as u32,
        };
        args.stages[..self.stages.len()].copy_from_slice(&self.stages);
        args.words[..self.words.len()].copy_from_slice(&self.words);
        self.forget();
        Some((kernel, args))
    }

    /// Drops all stages.
    pub(crate) fn forget(&mut self) {
        self.stages.clear();
        self.words.clear();
        self.layouts.clear();
        self.n_matrices = 0;
    }
}

/// Whether this device can run chains.
pub(crate) fn has(gpu: &Gpu) -> bool {
    gpu.arch() >= ring::ARCH_MIN && gpu.description().shared_max >= SHARED
}

/// Whether steps of so many rows go through chains here.
pub(crate) fn takes(gpu: &Gpu, n_rows: usize) -> bool {
    n_rows == 1 && gpu.chain().borrow().places.is_some()
}

/// Whether a chain can hold products of these matrices.
pub(crate) fn can(matrices: &[&Matrix]) -> bool {
    matrices.len() <= MAX_MATRICES
        && matrices.iter().all(|m| ring::is_whole(m) && ring::slots(m) <= MAX_UNIT_SLOTS)
        && matrices.iter().all(|m| m.layout().is_chunked() || m.rows().is_multiple_of(CHUNK_ROWS))
        && kernel(matrices.iter().map(|m| m.layout())).is_some()
}

/// Adds a stage.
///
/// # Errors
/// As [`Gpu::launch`]: stages that fill a chain may have to be launched before.
pub(crate) fn push(gpu: &Gpu, work: &Work<'_>) -> Result<()> {
    if gpu.chain().borrow().is_full(work) {
        launch(gpu)?;
    }
    gpu.chain().borrow_mut().push(work);
    Ok(())
}

/// Launches the stages that wait.
///
/// # Errors
/// As [`Gpu::launch`].
pub(crate) fn launch(gpu: &Gpu) -> Result<()> {
    let Some((kernel, mut args)) = gpu.chain().borrow_mut().take() else { return Ok(()) };
    let launch = Launch::new(gpu.sms(), THREADS).shared(SHARED);
    if gpu.has_ptx() {
        return gpu.launch_now(&kernel, launch, &args);
    }
    // Blocks that run one after another cannot meet.
    for stage in 0..args.last {
        (args.first, args.last) = (stage, stage + 1);
        gpu.launch_now(&kernel, launch, &args)?;
    }
    Ok(())
}
