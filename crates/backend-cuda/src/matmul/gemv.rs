//! Products of one or several matrices with the same activations.

use std::ops::Range;

use backend::{Act, Result};

use super::gemm::{self, Groups};
use super::round::Values;
use super::weights::{Layout, Matrix, MatrixArgs};
use super::{CHUNK_COLS, Workspace, unsupported, wide};
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};

/// Beyond these, weights that are read once for all rows repay their way through shared memory.
const MANY_ROWS: usize = 32;
const MAX_JOBS: usize = 8;
const WARPS: usize = 8;
/// Blocks that a multiprocessor holds, as `gemv.cu` promises.
pub(super) const BLOCKS_PER_SM: usize = 2;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct GemvJob {
    m: MatrixArgs,
    x: DevicePtr,
    out: DevicePtr,
    x_row_bytes: u32,
    x_slice_bytes: u32,
    out_stride: u32,
    groups: u32,
    first_group: u32,
    group_panels: u32,
    first_block: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GemvArgs {
    jobs: [GemvJob; MAX_JOBS],
    grid: DevicePtr,
    n_jobs: u32,
    n_rows: u32,
    n_blocks: u32,
    ahead: u32,
}

// SAFETY: `repr(C)`, as in `gemv.cu`; `unused` fills a job's padding.
unsafe impl Args for GemvArgs {}

/// What the jobs have in common for some rows and groups.
struct Piece<'a> {
    x: &'a Act<Buffer>,
    rows: Range<usize>,
    /// Groups of the matrices' rows, and those that this piece covers.
    n_groups: usize,
    groups: Range<usize>,
}

/// `out[r] = w · x[r]` for every job, with rows of `w` in `n_groups` groups. Rounded activations are
/// made once for all.
pub(super) fn products(
    gpu: &Gpu,
    ws: &Workspace,
    x: &Act<Buffer>,
    jobs: &[(&Act<Buffer>, &Matrix)],
    n_groups: usize,
    n_rows: usize,
) -> Result<()> {
    for (out, w) in jobs {
        assert_eq!(out.cols, w.rows(), "{}: outputs of {}", out.label, w.name());
        assert_eq!(x.cols, w.cols() * n_groups, "{}: inputs of {}", x.label, w.name());
    }
    let Some((_, w)) = jobs.first() else { return Ok(()) };
    let chunks = w.chunks().max(1);
    // Usually everything fits; if not, fewer rows, and at last fewer groups at a time.
    let rows = (ws.records() / (chunks * n_groups)).max(1);
    let groups = (ws.records() / chunks).min(n_groups);
    if groups == 0 {
        let expected = format!("at most {} columns", ws.records() * CHUNK_COLS);
        return Err(unsupported(w.name(), expected, w.cols().to_string()));
    }
    for first in (0..n_rows).step_by(rows) {
        for group in (0..n_groups).step_by(groups) {
            let piece = Piece {
                x,
                rows: first..(first + rows).min(n_rows),
                n_groups,
                groups: group..(group + groups).min(n_groups),
            };
            for jobs in jobs.chunks(MAX_JOBS) {
                piece.run(gpu, ws, jobs)?;
            }
        }
    }
    Ok(())
}

/// Kernels for a set of layouts by the rows they take: fewer layouts need fewer registers, which
/// leaves room for more rows.
fn kernels(mut layouts: impl Iterator<Item = Layout> + Clone) -> &'static [(usize, &'static str)] {
    if layouts.clone().all(|l| l == Layout::Q8_0) {
        &[(4, "gemv_q8_0_4"), (8, "gemv_q8_0_8"), (16, "gemv_q8_0_16"), (32, "gemv_q8_0_32")]
    } else if layouts.all(|l| l == Layout::Q8_0 || !l.is_chunked()) {
        &[(4, "gemv_q8_0_floats_4"), (8, "gemv_q8_0_floats_8"), (16, "gemv_q8_0_floats_16")]
    } else {
        &[(4, "gemv_any_4"), (8, "gemv_any_8")]
    }
}

/// Warps that share a panel, as in `gemv.cu`.
fn warps_of_panel(chunks: usize) -> usize {
    match chunks {
        8.. => 8,
        4..=7 => 4,
        2..=3 => 2,
        _ => 1,
    }
}

impl Piece<'_> {
    fn run(&self, gpu: &Gpu, ws: &Workspace, jobs: &[(&Act<Buffer>, &Matrix)]) -> Result<()> {
        let Some((_, first)) = jobs.first() else { return Ok(()) };
        let cols = first.cols();
        let at = self.rows.start * self.x.cols + self.groups.start * cols;
        let values = Values {
            x: self.x.buf.ptr().add(at * 4),
            stride: self.x.cols,
            cols,
            n_slices: self.groups.len(),
            n_rows: self.rows.len(),
        };
        if self.rows.len() > MANY_ROWS {
            return self.run_many(gpu, ws, &values, jobs);
        }
        values.round(gpu, ws, jobs.iter().map(|(_, w)| w.layout()))?;
        let kernels = kernels(jobs.iter().map(|(_, w)| w.layout()));
        let mut row = 0;
        while row < self.rows.len() {
            let left = self.rows.len() - row;
            // The smallest that takes all, or the largest.
            let fits = kernels.iter().find(|(rows, _)| *rows >= left).or(kernels.last());
            let Some(&(rows, name)) = fits else { break };
            let n_rows = rows.min(left);
            let mut args = GemvArgs {
                jobs: [GemvJob::default(); MAX_JOBS],
                grid: ws.grid(),
                n_jobs: jobs.len() as u32,
                n_rows: n_rows as u32,
                n_blocks: 0,
                ahead: (BLOCKS_PER_SM * gpu.sms()) as u32,
            };
            let mut blocks = 0;
            for (slot, (out, w)) in args.jobs.iter_mut().zip(jobs) {
                *slot = self.job(ws, &values, row, out, w);
                slot.first_block = blocks as u32;
                let panels = WARPS / warps_of_panel(w.chunks());
                blocks += self.groups.len() * (slot.group_panels as usize).div_ceil(panels);
            }
            args.n_blocks = blocks as u32;
            let kernel = Kernel::new("matmul/gemv", name);
            gpu.launch(&kernel, Launch::new(blocks, 256), &args)?;
            row += n_rows;
        }
        Ok(())
    }

    fn run_many(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        values: &Values,
        jobs: &[(&Act<Buffer>, &Matrix)],
    ) -> Result<()> {
        let groups = Groups { all: self.n_groups, first: self.groups.start, n: self.groups.len() };
        let can = |w: &Matrix| wide::can(gpu, w.layout());
        let halves = match jobs.iter().any(|(_, w)| can(w)) {
            true => wide::round(gpu, ws, values)?,
            false => None,
        };
        let is_wide = |w: &Matrix| halves.is_some() && can(w);
        values.round(gpu, ws, jobs.iter().filter(|(_, w)| !is_wide(w)).map(|(_, w)| w.layout()))?;
        jobs.iter().try_for_each(|(out, w)| {
            let to = gemm::rows_of(out, self.rows.start);
            match &halves {
                Some(x) if can(w) => wide::product(gpu, ws, (x, values.n_rows), w, to, &groups),
                _ => gemm::product(gpu, ws, values, w, to, &groups),
            }
        })
    }

    fn job(
        &self,
        ws: &Workspace,
        values: &Values,
        row: usize,
        out: &Act<Buffer>,
        w: &Matrix,
    ) -> GemvJob {
        let source = values.source(ws, w.layout(), row);
        GemvJob {
            m: w.args(),
            x: source.x,
            out: out.buf.ptr().add((self.rows.start + row) * out.cols * 4),
            x_row_bytes: source.row_bytes,
            x_slice_bytes: source.slice_bytes,
            out_stride: out.cols as u32,
            groups: self.n_groups as u32,
            first_group: self.groups.start as u32,
            group_panels: w.group_panels(self.n_groups) as u32,
            first_block: 0,
            unused: 0,
        }
    }
}
