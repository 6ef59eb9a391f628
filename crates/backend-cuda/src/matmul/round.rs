//! Rounding of activations to int8, once for all matrices that read them.

use backend::Result;

use super::CHUNK_COLS;
use super::weights::{Layout, Rounding};
use super::workspace::{RECORD_32, RECORD_256, RECORD_HALVES, Workspace};
use crate::gpu::{Args, DevicePtr, Gpu, Kernel, Launch};

const ROUND: Kernel = Kernel::new("matmul/round", "round_rows");

#[repr(C)]
#[derive(Clone, Copy)]
struct RoundArgs {
    x: DevicePtr,
    by_32: DevicePtr,
    by_256: DevicePtr,
    by_halves: DevicePtr,
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
    /// Whether F16 weights meet records of halves: those of kernels with rings.
    pub(super) halves: bool,
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

    /// Records of all rows.
    pub(super) fn records(&self) -> usize {
        self.n_rows * self.n_slices * self.chunks()
    }

    /// Rounds for each of `layouts` that needs it; they must fit into the workspace.
    pub(super) fn round(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        layouts: impl Iterator<Item = Layout>,
    ) -> Result<()> {
        self.round_unless(false, gpu, ws, layouts).map(|_| ())
    }

    /// The same; but with `near`, rows that no kernel has rounded yet stay as they are, and the answer is
    /// true.
    pub(super) fn round_unless(
        &self,
        near: bool,
        gpu: &Gpu,
        ws: &Workspace,
        layouts: impl Iterator<Item = Layout>,
    ) -> Result<bool> {
        let [mut by_32, mut by_256, mut by_halves] = [DevicePtr::NULL; 3];
        for layout in layouts {
            match layout.rounding() {
                Rounding::None => {}
                Rounding::By32 => by_32 = ws.by_32(),
                Rounding::By256 => by_256 = ws.by_256(),
                Rounding::Halves if self.halves => by_halves = ws.by_halves(),
                Rounding::Halves => {}
            }
        }
        if [by_32, by_256, by_halves] == [DevicePtr::NULL; 3] {
            return Ok(false);
        }
        let halves = by_halves != DevicePtr::NULL;
        if ws.take_records(self.x, (self.n_slices, self.cols), self.n_rows, halves) {
            return Ok(false);
        }
        if near {
            return Ok(true);
        }
        let warps = self.records();
        let args = RoundArgs {
            x: self.x,
            by_32,
            by_256,
            by_halves,
            stride: self.stride as u32,
            n_slices: self.n_slices as u32,
            cols: self.cols as u32,
            chunks: self.chunks() as u32,
            n_rows: self.n_rows as u32,
            unused: 0,
        };
        gpu.launch(&ROUND, Launch::new(warps.div_ceil(8), 256), &args)?;
        Ok(false)
    }

    /// What a layout reads, from row `first` on.
    pub(super) fn source(&self, ws: &Workspace, layout: Layout, first: usize) -> Source {
        let (x, slice) = match layout.rounding() {
            Rounding::Halves if self.halves => (ws.by_halves(), self.chunks() * RECORD_HALVES),
            Rounding::None | Rounding::Halves => {
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
