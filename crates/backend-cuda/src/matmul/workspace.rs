//! Memory of products beside weights and outputs, sized once.

use backend::{Result, Shape};
use quant::grids;

use super::CHUNK_COLS;
use crate::gpu::{Buffer, DevicePtr, Gpu};

/// Bytes of a record of rounded activations (`cuda/matmul/layout.cuh`).
pub(super) const RECORD_32: usize = 288;
pub(super) const RECORD_256: usize = 304;

/// Rounded activations and what lies between the experts' products.
pub(crate) struct Workspace {
    records: usize,
    by_32: Buffer,
    by_256: Buffer,
    inner: usize,
    pairs: usize,
    hidden: Buffer,
    grid: Buffer,
}

/// Sizes in elements.
struct Sizes {
    /// Records of rounded activations.
    records: usize,
    /// Pairs of a row and one of its experts, the shared one counted.
    pairs: usize,
    inner: usize,
}

impl Sizes {
    fn of(shape: &Shape) -> Self {
        let (config, rows) = (&shape.config, shape.limits.step_rows.max(shape.limits.logit_rows));
        let widest = [
            config.hc.n_streams * config.hidden,
            config.n_heads * config.head_dim,
            config.q_lora_rank,
            config.n_out_groups * config.out_lora_rank,
            config.expert_inner,
        ];
        let chunks = widest.into_iter().max().unwrap_or(0).div_ceil(CHUNK_COLS);
        let pairs = rows * (config.n_experts_used + 1);
        let inner = config.expert_inner;
        let records = (rows * chunks).max(pairs * inner.div_ceil(CHUNK_COLS));
        Self { records, pairs, inner }
    }

    fn bytes(&self) -> [usize; 4] {
        let Self { records, pairs, inner } = *self;
        [records * RECORD_32, records * RECORD_256, pairs * inner * 4, 256 * 4]
    }
}

impl Workspace {
    /// Bytes that [`Workspace::new`] allocates.
    pub(crate) fn bytes(shape: &Shape) -> usize {
        Sizes::of(shape).bytes().into_iter().sum()
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let sizes = Sizes::of(shape);
        let [by_32, by_256, hidden, grid] = sizes.bytes();
        let ws = Self {
            records: sizes.records,
            by_32: gpu.alloc("rounded activations", by_32)?,
            by_256: gpu.alloc("rounded activations", by_256)?,
            inner: sizes.inner,
            pairs: sizes.pairs,
            hidden: gpu.alloc("activations of experts", hidden)?,
            grid: gpu.alloc("grid of IQ2_XXS", grid)?,
        };
        gpu.upload(&ws.grid, 0, &levels())?;
        Ok(ws)
    }

    /// Records that fit.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    pub(super) fn by_32(&self) -> DevicePtr {
        self.by_32.ptr()
    }

    pub(super) fn by_256(&self) -> DevicePtr {
        self.by_256.ptr()
    }

    /// Gated activations of pairs, `[pairs, inner]`.
    pub(super) fn hidden(&self) -> DevicePtr {
        self.hidden.ptr()
    }

    /// How many rows of `inner` values `hidden` holds.
    pub(super) fn pairs(&self, inner: usize) -> usize {
        self.pairs * self.inner / inner.max(1)
    }

    /// The grid of IQ2_XXS as `formats.cuh` wants it.
    pub(super) fn grid(&self) -> DevicePtr {
        self.grid.ptr()
    }
}

/// Four bits for each of eight weights: which of the levels 8, 25, 43 its magnitude is.
fn levels() -> Vec<u8> {
    let word = |magnitudes: u64| {
        let level = |(i, m): (usize, u8)| u32::from(m > 8) + u32::from(m > 25) << (4 * i);
        magnitudes.to_le_bytes().into_iter().enumerate().map(level).fold(0, |a, b| a | b)
    };
    grids::IQ2_XXS.iter().flat_map(|&magnitudes| word(magnitudes).to_le_bytes()).collect()
}
