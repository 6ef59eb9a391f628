//! Products of one or several matrices with the same activations.

use std::ops::Range;

use backend::{Act, Result};

use super::gemm::{self, Groups};
use super::round::{Taken, Values};
use super::weights::{Layout, Matrix, MatrixArgs};
use super::{CHUNK_COLS, CHUNK_ROWS, Workspace, ring, unsupported, wide};
use crate::chain::{self, Kind, Work};
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};

/// Beyond these, weights that are read once for all rows repay their way through shared memory.
const MANY_ROWS: usize = 32;
const MAX_JOBS: usize = 8;
const WARPS: usize = 8;

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
    first_unit: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GemvArgs {
    jobs: [GemvJob; MAX_JOBS],
    grid: DevicePtr,
    n_jobs: u32,
    n_rows: u32,
    n_units: u32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `gemv.cuh`, without padding.
unsafe impl Args for GemvJob {}

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

/// Products of one row that is not normed yet, in a chain; only their records are normed. False, and
/// nothing done, where that is not possible.
pub(crate) fn chain_normed(
    gpu: &Gpu,
    ws: &Workspace,
    x: &Act<Buffer>,
    norm: (DevicePtr, f32),
    jobs: &[(&Act<Buffer>, &Matrix)],
) -> Result<bool> {
    if jobs.len() > MAX_JOBS {
        return Ok(false);
    }
    let piece = Piece { x, rows: 0..1, n_groups: 1, groups: 0..1 };
    let values = Values { x: x.buf.ptr(), stride: x.cols, cols: x.cols, n_slices: 1, n_rows: 1 };
    piece.chain(gpu, ws, &values, Some(norm), jobs)
}

/// Kernels for a set of layouts by the rows they take: fewer layouts need fewer registers, which
/// leaves room for more rows. Those with rings have the same names behind `ring`.
fn kernels(mut layouts: impl Iterator<Item = Layout> + Clone) -> &'static [Rows] {
    const Q8_0: [Rows; 4] = [
        Rows::new(4, "gemv_q8_0_4", "ring_q8_0_4"),
        Rows::new(8, "gemv_q8_0_8", "ring_q8_0_8"),
        Rows::new(16, "gemv_q8_0_16", "ring_q8_0_16"),
        Rows::new(32, "gemv_q8_0_32", "ring_q8_0_32"),
    ];
    const FLOATS: [Rows; 3] = [
        Rows::new(4, "gemv_q8_0_floats_4", "ring_q8_0_floats_4"),
        Rows::new(8, "gemv_q8_0_floats_8", "ring_q8_0_floats_8"),
        Rows::new(16, "gemv_q8_0_floats_16", "ring_q8_0_floats_16"),
    ];
    const ANY: [Rows; 2] =
        [Rows::new(4, "gemv_any_4", "ring_any_4"), Rows::new(8, "gemv_any_8", "ring_any_8")];
    if layouts.clone().all(|l| l == Layout::Q8_0) {
        &Q8_0
    } else if layouts.all(|l| l == Layout::Q8_0 || !l.is_chunked()) {
        &FLOATS
    } else {
        &ANY
    }
}

/// Kernels for up to so many rows.
struct Rows {
    max: usize,
    plain: &'static str,
    ring: &'static str,
}

impl Rows {
    const fn new(max: usize, plain: &'static str, ring: &'static str) -> Self {
        Self { max, plain, ring }
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
        if chain::takes(gpu, self.rows.len()) && self.chain(gpu, ws, &values, None, jobs)? {
            return Ok(());
        }
        if self.rows.len() > MANY_ROWS {
            return self.run_many(gpu, ws, &values, jobs);
        }
        values.round(gpu, ws, jobs.iter().map(|(_, w)| w.layout()))?;
        let kernels = kernels(jobs.iter().map(|(_, w)| w.layout()));
        let mut row = 0;
        while row < self.rows.len() {
            let left = self.rows.len() - row;
            // The smallest that takes all, or the largest.
            let Some(rows) = kernels.iter().find(|r| r.max >= left).or(kernels.last()) else {
                break;
            };
            self.launch(gpu, ws, jobs, (&values, row, rows.max.min(left)), rows)?;
            row += rows.max.min(left);
        }
        Ok(())
    }

    /// Some rows from row `row` of the piece on.
    fn launch(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        jobs: &[(&Act<Buffer>, &Matrix)],
        (values, row, n_rows): (&Values, usize, usize),
        rows: &Rows,
    ) -> Result<()> {
        let shared = ring::gemv_shared(rows.max);
        let has_ring = ring::has(gpu, shared, jobs.iter().map(|(_, w)| *w));
        let mut args = GemvArgs {
            jobs: [GemvJob::default(); MAX_JOBS],
            grid: ws.grid(),
            n_jobs: jobs.len() as u32,
            n_rows: n_rows as u32,
            n_units: 0,
            unused: 0,
        };
        let mut units = 0;
        for (slot, (out, w)) in args.jobs.iter_mut().zip(jobs) {
            *slot = self.job(ws, values, row, out, w);
            slot.first_unit = units as u32;
            let plain_panels = WARPS / warps_of_panel(w.chunks());
            let panels = if has_ring { ring::unit_panels(w) } else { plain_panels };
            units += self.groups.len() * (slot.group_panels as usize).div_ceil(panels);
        }
        args.n_units = units as u32;
        if !has_ring {
            let kernel = Kernel::new("matmul/gemv", rows.plain);
            return gpu.launch(&kernel, Launch::new(units, 256), &args);
        }
        let kernel = Kernel::new("matmul/gemv_ring", rows.ring);
        let launch = Launch::new(units.min(gpu.sms()), ring::THREADS).shared(shared);
        gpu.launch(&kernel, launch, &args)
    }

    /// Adds the products of one row to a chain; `norm` has the weights of its norm and an epsilon, if it
    /// is not normed yet. False, and nothing done, where that is not possible.
    fn chain(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        values: &Values,
        norm: Option<(DevicePtr, f32)>,
        jobs: &[(&Act<Buffer>, &Matrix)],
    ) -> Result<bool> {
        let matrices: Vec<&Matrix> = jobs.iter().map(|(_, w)| *w).collect();
        let layouts = || matrices.iter().map(|w| w.layout());
        // Groups are whole panels.
        let split = |w: &&Matrix| !(w.rows() / self.n_groups).is_multiple_of(CHUNK_ROWS);
        if self.n_groups > 1 && matrices.iter().any(split) {
            return Ok(false);
        }
        if !chain::can(&matrices) || (norm.is_some() && !layouts().all(Layout::is_chunked)) {
            return Ok(false);
        }
        let Some(taken) = Taken::new(ws, values, norm, layouts()) else { return Ok(false) };
        let mut units = 0;
        let mut args = Vec::new();
        for (out, w) in jobs {
            let mut job = self.job(ws, values, 0, out, w);
            job.x = taken.place(ws, job.x);
            job.first_unit = units as u32;
            units += self.groups.len() * (job.group_panels as usize).div_ceil(ring::unit_panels(w));
            args.push(job);
        }
        let work = Work::new(Kind::Gemv, &taken.take).product(units, matrices);
        chain::push(gpu, &args.iter().fold(work, |work, job| work.and(job)))?;
        Ok(true)
    }

    fn run_many(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        values: &Values,
        jobs: &[(&Act<Buffer>, &Matrix)],
    ) -> Result<()> {
        let groups = Groups { all: self.n_groups, first: self.groups.start, n: self.groups.len() };
        let is_f16 = |w: &Matrix| wide::can_f16(gpu, ws, w, values);
        let can = |w: &Matrix| wide::can(gpu, w.layout()) || is_f16(w);
        let halves = match jobs.iter().any(|(_, w)| can(w)) {
            true => wide::round(gpu, ws, values, jobs.iter().any(|(_, w)| is_f16(w)))?,
            false => None,
        };
        let is_wide = |w: &Matrix| halves.is_some() && can(w);
        values.round(gpu, ws, jobs.iter().filter(|(_, w)| !is_wide(w)).map(|(_, w)| w.layout()))?;
        let mut f16 = Vec::new();
        for (out, w) in jobs {
            let to = gemm::rows_of(out, self.rows.start);
            match &halves {
                Some(_) if is_f16(w) => f16.push((*w, to)),
                Some(x) if can(w) => wide::product(gpu, ws, (x, values.n_rows), w, to, &groups)?,
                _ => gemm::product(gpu, ws, values, w, to, &groups)?,
            }
        }
        match &halves {
            Some(x) => wide::products_f16(gpu, (x, values.n_rows, values.cols), &f16),
            None => Ok(()),
        }
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
            first_unit: 0,
            unused: 0,
        }
    }
}
