//! Memory of products beside weights and outputs, sized once.

use std::cell::Cell;

use backend::{Result, Shape};
use quant::grids;

use super::sorted::{COLUMNS_MIN, max_tiles};
use super::{CHUNK_COLS, FEW_ROWS, MANY_KEPT_ROWS, few, wide};
use crate::gpu::{Buffer, DevicePtr, Gpu};

/// Bytes of a record of rounded activations (`cuda/matmul/layout.cuh`).
pub(super) const RECORD_32: usize = 288;
pub(super) const RECORD_256: usize = 304;
pub(super) const RECORD_HALVES: usize = 1024;

/// Rounded activations and what lies between the experts' products.
pub(crate) struct Workspace {
    records: usize,
    by_32: Buffer,
    by_256: Buffer,
    half_records: usize,
    by_halves: Buffer,
    inner: usize,
    pairs: usize,
    hidden: Buffer,
    results: Buffer,
    starts: Buffer,
    sorted_pairs: Buffer,
    places: Buffer,
    tiles: Buffer,
    halves: Buffer,
    rest: Buffer,
    hidden_halves: Buffer,
    factors: Buffer,
    gaps: Buffer,
    grid: Buffer,
    rounded: Cell<Option<RoundedRows>>,
}

/// Rows whose records the kernel that made them has left: where the values begin, slices of a row and
/// columns of a slice, rows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RoundedRows {
    x: DevicePtr,
    slices: (usize, usize),
    n_rows: usize,
    halves: bool,
}

/// Where a kernel leaves records: `Records` of `cuda/matmul/round.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Records {
    by_32: DevicePtr,
    by_256: DevicePtr,
    by_halves: DevicePtr,
}

/// Sizes in elements.
struct Sizes {
    /// Records of rounded activations, and of those that F16 weights meet in kernels for few rows.
    records: usize,
    half_records: usize,
    /// Pairs of a row and one of its experts, the shared one counted.
    pairs: usize,
    inner: usize,
    /// Results of pairs before they are added up; none where rows are few.
    results: usize,
    experts: usize,
    tiles: usize,
    /// Bytes of rows of f16, and of gated ones, and how many rows there are of either.
    halves: usize,
    rest: usize,
    hidden_halves: usize,
    factors: usize,
}

impl Sizes {
    fn of(gpu: &Gpu, shape: &Shape) -> Self {
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
        let many = usize::from(rows > FEW_ROWS);
        let experts = config.n_experts;
        let is_wide = many * usize::from(wide::has(gpu));
        let slots = wide::slots(pairs, experts);
        let chunks_of = |cols: usize| cols.div_ceil(CHUNK_COLS);
        let sorted = |cols: usize| slots * chunks_of(cols) * CHUNK_COLS * 2;
        Self {
            records,
            half_records: rows.min(MANY_KEPT_ROWS) * chunks,
            pairs,
            inner,
            results: usize::from(rows >= few::ROWS_MIN)
                * rows
                * (config.n_experts_used + 1)
                * config.hidden,
            experts,
            tiles: max_tiles(pairs, experts, COLUMNS_MIN).max(few::tiles(
                rows,
                config.n_experts_used,
                experts,
            )),
            halves: is_wide * wide::halves_bytes(rows, chunks).max(sorted(config.hidden)),
            rest: is_wide
                * wide::halves_bytes(rows, chunks_of(config.hidden.max(config.q_lora_rank))),
            hidden_halves: is_wide * sorted(inner),
            factors: is_wide * slots.max((rows + 128) * config.n_out_groups),
        }
    }

    fn bytes(&self) -> [usize; 15] {
        let Self { records, pairs, inner, results, experts, tiles, .. } = *self;
        let of_halves = self.half_records * RECORD_HALVES;
        let rounded = [records * RECORD_32, records * RECORD_256, of_halves];
        let between = [pairs * inner * 4, results * 4];
        let order = [(experts + 1) * 4, pairs * 4, pairs * 4, tiles * 16];
        let halves = [self.halves, self.rest, self.hidden_halves, 4 * self.factors, 4 * experts];
        let all = rounded.into_iter().chain(between).chain(order).chain(halves);
        let mut bytes = [256 * 4; 15];
        for (to, from) in bytes.iter_mut().zip(all) {
            // An empty buffer is not.
            *to = from.max(16);
        }
        bytes
    }
}

impl Workspace {
    /// Bytes that [`Workspace::new`] allocates.
    pub(crate) fn bytes(gpu: &Gpu, shape: &Shape) -> usize {
        Sizes::of(gpu, shape).bytes().into_iter().sum()
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let sizes = Sizes::of(gpu, shape);
        let [by_32, by_256, by_halves, hidden, results, starts, rest @ ..] = sizes.bytes();
        let [sorted_pairs, places, tiles, wide @ ..] = rest;
        let [halves, rest, hidden_halves, factors, gaps, grid] = wide;
        let ws = Self {
            records: sizes.records,
            by_32: gpu.alloc("rounded activations", by_32)?,
            by_256: gpu.alloc("rounded activations", by_256)?,
            half_records: sizes.half_records,
            by_halves: gpu.alloc("rounded activations", by_halves)?,
            inner: sizes.inner,
            pairs: sizes.pairs,
            hidden: gpu.alloc("activations of experts", hidden)?,
            results: gpu.alloc("results of experts", results)?,
            starts: gpu.alloc("order of experts", starts)?,
            sorted_pairs: gpu.alloc("order of experts", sorted_pairs)?,
            places: gpu.alloc("order of experts", places)?,
            tiles: gpu.alloc("order of experts", tiles)?,
            halves: gpu.alloc("activations as f16", halves)?,
            rest: gpu.alloc("activations as f16", rest)?,
            hidden_halves: gpu.alloc("activations of experts as f16", hidden_halves)?,
            factors: gpu.alloc("activations as f16", factors)?,
            gaps: gpu.alloc("order of experts", gaps)?,
            grid: gpu.alloc("grid of IQ2_XXS", grid)?,
            rounded: Cell::new(None),
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

    pub(super) fn by_halves(&self) -> DevicePtr {
        self.by_halves.ptr()
    }

    /// Records of halves that fit.
    pub(super) fn half_records(&self) -> usize {
        self.half_records
    }

    /// Where a kernel that makes rows of whole 256s leaves their records, for the next product of them:
    /// `slices` of a row, and their columns. Nowhere, if they are not whole or too many.
    pub(crate) fn leave_records(
        &self,
        x: DevicePtr,
        slices: (usize, usize),
        n_rows: usize,
    ) -> Records {
        let (n, cols) = slices;
        let records = n_rows * n * (cols / CHUNK_COLS);
        if !cols.is_multiple_of(CHUNK_COLS) || records > self.records {
            self.rounded.set(None);
            return Records::default();
        }
        let halves = records <= self.half_records;
        let by_halves = if halves { self.by_halves() } else { DevicePtr::NULL };
        self.rounded.set(Some(RoundedRows { x, slices, n_rows, halves }));
        Records { by_32: self.by_32(), by_256: self.by_256(), by_halves }
    }

    /// Whether the records of these rows are there, and those of halves if they are wanted; once, since
    /// rows may change after their product.
    pub(super) fn take_records(
        &self,
        x: DevicePtr,
        slices: (usize, usize),
        n_rows: usize,
        halves: bool,
    ) -> bool {
        let wanted = |r: RoundedRows| {
            (r.x, r.slices, r.n_rows) == (x, slices, n_rows) && (r.halves || !halves)
        };
        self.rounded.take().is_some_and(wanted)
    }

    /// Forgets them: the step whose kernels left them is over.
    pub(crate) fn forget_records(&self) {
        self.rounded.set(None);
    }

    /// Gated activations of pairs, `[pairs, inner]`.
    pub(super) fn hidden(&self) -> DevicePtr {
        self.hidden.ptr()
    }

    /// How many rows of `inner` values `hidden` holds.
    pub(super) fn pairs(&self, inner: usize) -> usize {
        self.pairs * self.inner / inner.max(1)
    }

    /// Results of pairs, `[pairs, hidden]`; there is none when no step has many rows.
    pub(super) fn results(&self) -> DevicePtr {
        self.results.ptr()
    }

    /// How many rows of `cols` values `results` holds.
    pub(super) fn result_rows(&self, cols: usize) -> usize {
        self.results.bytes() / (4 * cols)
    }

    /// Where each expert's pairs begin.
    pub(super) fn starts(&self) -> DevicePtr {
        self.starts.ptr()
    }

    /// Pair by place.
    pub(super) fn sorted_pairs(&self) -> DevicePtr {
        self.sorted_pairs.ptr()
    }

    /// Place by pair.
    pub(super) fn places(&self) -> DevicePtr {
        self.places.ptr()
    }

    /// Tiles of the sorted pairs.
    pub(super) fn tiles(&self) -> DevicePtr {
        self.tiles.ptr()
    }

    /// Rows of f16.
    pub(super) fn halves(&self) -> DevicePtr {
        self.halves.ptr()
    }

    pub(super) fn halves_bytes(&self) -> usize {
        self.halves.bytes()
    }

    /// What was lost of them.
    pub(super) fn rest(&self) -> DevicePtr {
        self.rest.ptr()
    }

    pub(super) fn rest_bytes(&self) -> usize {
        self.rest.bytes()
    }

    /// Gated activations as f16.
    pub(super) fn hidden_halves(&self) -> DevicePtr {
        self.hidden_halves.ptr()
    }

    pub(super) fn hidden_halves_bytes(&self) -> usize {
        self.hidden_halves.bytes()
    }

    /// What the products of f16 rows are multiplied with.
    pub(super) fn factors(&self) -> DevicePtr {
        self.factors.ptr()
    }

    pub(super) fn factors_len(&self) -> usize {
        self.factors.bytes() / 4
    }

    /// Slots less places, by expert.
    pub(super) fn gaps(&self) -> DevicePtr {
        self.gaps.ptr()
    }

    /// The grid of IQ2_XXS as `formats.cuh` wants it.
    pub(crate) fn grid(&self) -> DevicePtr {
        self.grid.ptr()
    }
}

/// Four bits for each of eight weights: which of the levels 8, 25, 43 its magnitude is.
fn levels() -> Vec<u8> {
    let word = |magnitudes: u64| {
        let level = |(i, m): (usize, u8)| (u32::from(m > 8) + u32::from(m > 25)) << (4 * i);
        magnitudes.to_le_bytes().into_iter().enumerate().map(level).fold(0, |a, b| a | b)
    };
    grids::IQ2_XXS.iter().flat_map(|&magnitudes| word(magnitudes).to_le_bytes()).collect()
}
