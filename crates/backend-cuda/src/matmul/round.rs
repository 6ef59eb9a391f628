//! Rounding of activations to int8, once for all matrices that read them.

use backend::Result;

use super::CHUNK_COLS;
use super::weights::{Layout, Rounding};
use super::workspace::{RECORD_32, RECORD_256, Workspace};
use crate::chain::{ACTS_BYTES, Take};
use crate::gpu::{Args, DevicePtr, Gpu, Kernel, Launch};

const ROUND: Kernel = Kernel::new("matmul/round", "round_rows");

#[repr(C)]
#[derive(Clone, Copy)]
struct RoundArgs {
    x: DevicePtr,
    by_32: DevicePtr,
    by_256: DevicePtr,
    stride: u32,
    n_slices: u32,
    cols: u32,
    chunks: u32,
    n_rows: u32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `round.cu`, and the last field fills the padding.
unsafe impl Args for RoundArgs {}

/// Activations of a product: f32 rows of which `n_slices` slices of `cols` values are used.
#[derive(Clone, Copy)]
pub(super) struct Values {
    pub(super) x: DevicePtr,
    /// Values between rows.
    pub(super) stride: usize,
    pub(super) cols: usize,
    pub(super) n_slices: usize,
    pub(super) n_rows: usize,
}

/// Where a layout's kernels find their activations.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) x: DevicePtr,
    pub(super) row_bytes: u32,
    pub(super) slice_bytes: u32,
}

impl Values {
    pub(super) fn chunks(&self) -> usize {
        self.cols.div_ceil(CHUNK_COLS)
    }

    /// Rounds for each of `layouts` that needs it; they must fit into the workspace.
    pub(super) fn round(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        layouts: impl Iterator<Item = Layout>,
    ) -> Result<()> {
        let (mut by_32, mut by_256) = (DevicePtr::NULL, DevicePtr::NULL);
        for layout in layouts {
            match layout.rounding() {
                Rounding::None => {}
                Rounding::By32 => by_32 = ws.by_32(),
                Rounding::By256 => by_256 = ws.by_256(),
            }
        }
        if by_32 == DevicePtr::NULL && by_256 == DevicePtr::NULL {
            return Ok(());
        }
        if ws.take_records(self.x, (self.n_slices, self.cols), self.n_rows) {
            return Ok(());
        }
        let warps = self.n_rows * self.n_slices * self.chunks();
        let args = RoundArgs {
            x: self.x,
            by_32,
            by_256,
            stride: self.stride as u32,
            n_slices: self.n_slices as u32,
            cols: self.cols as u32,
            chunks: self.chunks() as u32,
            n_rows: self.n_rows as u32,
            unused: 0,
        };
        gpu.launch(&ROUND, Launch::new(warps.div_ceil(8), 256), &args)
    }

    /// What a layout reads, from row `first` on.
    pub(super) fn source(&self, ws: &Workspace, layout: Layout, first: usize) -> Source {
        let (x, slice) = match layout.rounding() {
            Rounding::None => {
                let row_bytes = self.stride * 4;
                return Source {
                    x: self.x.add(first * row_bytes),
                    row_bytes: row_bytes as u32,
                    slice_bytes: (self.cols * 4) as u32,
                };
            }
            Rounding::By32 => (ws.by_32(), self.chunks() * RECORD_32),
            Rounding::By256 => (ws.by_256(), self.chunks() * RECORD_256),
        };
        let row_bytes = slice * self.n_slices;
        Source {
            x: x.add(first * row_bytes),
            row_bytes: row_bytes as u32,
            slice_bytes: slice as u32,
        }
    }
}

/// How a chain takes the activations of one row.
pub(super) struct Taken {
    pub(super) take: Take,
    /// Whether records come to shared memory.
    near: bool,
}

impl Taken {
    /// For these layouts; `norm` has the weights of a norm and an epsilon, if the row is not normed yet.
    /// `None` where the row does not fit.
    pub(super) fn new(
        ws: &Workspace,
        values: &Values,
        norm: Option<(DevicePtr, f32)>,
        layouts: impl Iterator<Item = Layout> + Clone,
    ) -> Option<Self> {
        let cols = values.n_slices * values.cols;
        let has = |rounding| layouts.clone().any(|l| l.rounding() == rounding);
        let (by_32, by_256) = (has(Rounding::By32), has(Rounding::By256));
        let chunks = values.n_slices * values.chunks();
        let count = |wanted| if wanted { chunks } else { 0 };
        let (n_32, n_256) = (count(by_32), count(by_256));
        if n_32 + n_256 == 0 {
            return norm.is_none().then(|| Self { take: Take::default(), near: false });
        }
        let near = n_32 * RECORD_32 + n_256 * RECORD_256 <= ACTS_BYTES;
        let there = norm.is_none() && ws.take_records(values.x, (values.n_slices, values.cols), 1);
        let whole = values.cols.is_multiple_of(CHUNK_COLS);
        let can_round = near && whole;
        if !(there || can_round) {
            return None;
        }
        let mut take = Take {
            n_32: n_32 as u32,
            n_256: n_256 as u32,
            at_256: (n_32 * RECORD_32) as u32,
            cols: cols as u32,
            ..Take::default()
        };
        match (there, near) {
            (true, true) => (take.from_32, take.from_256) = (ws.by_32(), ws.by_256()),
            (true, false) => take = Take::default(),
            (false, _) => take.x = values.x,
        }
        if let Some((weights, eps)) = norm {
            (take.norm, take.eps) = (weights, eps);
        }
        Some(Self { take, near })
    }

    /// Where records that begin at `x` in the workspace are for a chain: their place among the activations in
    /// shared memory, or as they are.
    pub(super) fn place(&self, ws: &Workspace, x: DevicePtr) -> DevicePtr {
        match x {
            x if self.near && x == ws.by_32() => DevicePtr(u64::from(self.take.at_32)),
            x if self.near && x == ws.by_256() => DevicePtr(u64::from(self.take.at_256)),
            x => x,
        }
    }
}
