//! Products of one or several matrices with the same activations.

use std::ops::Range;

use backend::{Act, Result};

use super::gemm::{self, Groups};
use super::one::{self, OneArgs};
use super::round::Values;
use super::weights::{Layout, Matrix, MatrixArgs};
use super::{CHUNK_COLS, MANY_KEPT_ROWS, MANY_ROWS, Workspace, ring, unsupported, wide};
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};

pub(super) const MAX_JOBS: usize = 8;
const ONE: Kernel = Kernel::new("matmul/gemv_one", "gemv_one");
/// Those of several rows of Q8_0 and F16, by how many they take.
const FEW: [(usize, Kernel); 2] = [
    (8, Kernel::new("matmul/gemv_few", "gemv_few_8")),
    (16, Kernel::new("matmul/gemv_few", "gemv_few_16")),
];
/// Up to so many rows the kernels for four have less to do.
const FOUR: usize = 4;
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

// SAFETY: `repr(C)`, as in `gemv.cuh`; `unused` fills the padding.
unsafe impl Args for GemvArgs {}

/// A matrix, and where its results go: row 0, and floats between rows.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) out: DevicePtr,
    pub(super) stride: usize,
    pub(super) w: &'a Matrix,
}

/// What the jobs have in common for some rows and groups.
struct Piece {
    /// Row 0 of the activations, and floats between rows.
    x: (DevicePtr, usize),
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
    let jobs: Vec<_> =
        jobs.iter().map(|(out, w)| Job { out: out.buf.ptr(), stride: out.cols, w }).collect();
    products_at(gpu, ws, (x.buf.ptr(), x.cols), &jobs, n_groups, n_rows)
}

/// The same wherever activations and results lie.
pub(super) fn products_at(
    gpu: &Gpu,
    ws: &Workspace,
    x: (DevicePtr, usize),
    jobs: &[Job<'_>],
    n_groups: usize,
    n_rows: usize,
) -> Result<()> {
    let Some(Job { w, .. }) = jobs.first() else { return Ok(()) };
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
/// leaves room for more rows. Those with rings have the same names behind `ring`.
fn kernels(mut layouts: impl Iterator<Item = Layout> + Clone) -> &'static [Rows] {
    const Q8_0: [Rows; 4] = [
        Rows::new(4, "gemv_q8_0_4", Some("ring_q8_0_4")),
        // With rings more rows have those of `FEW`.
        Rows::new(8, "gemv_q8_0_8", None),
        Rows::new(16, "gemv_q8_0_16", None),
        Rows::new(32, "gemv_q8_0_32", None),
    ];
    const FLOATS: [Rows; 3] = [
        Rows::new(4, "gemv_q8_0_floats_4", Some("ring_q8_0_floats_4")),
        Rows::new(8, "gemv_q8_0_floats_8", Some("ring_q8_0_floats_8")),
        Rows::new(16, "gemv_q8_0_floats_16", Some("ring_q8_0_floats_16")),
    ];
    const ANY: [Rows; 2] = [
        Rows::new(4, "gemv_any_4", Some("ring_any_4")),
        Rows::new(8, "gemv_any_8", Some("ring_any_8")),
    ];
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
    ring: Option<&'static str>,
}

impl Rows {
    const fn new(max: usize, plain: &'static str, ring: Option<&'static str>) -> Self {
        Self { max, plain, ring }
    }
}

/// What the kernels of a piece read: with rings or without, and rounded or as they are.
struct Activations<'a> {
    values: &'a Values,
    has_rings: bool,
    raw: bool,
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

impl Piece {
    /// What matrices of so many columns meet.
    fn values(&self, cols: usize) -> Values {
        let (x, stride) = self.x;
        let at = self.rows.start * stride + self.groups.start * cols;
        Values {
            x: x.add(at * 4),
            stride,
            cols,
            n_slices: self.groups.len(),
            n_rows: self.rows.len(),
            halves: false,
        }
    }

    fn run(&self, gpu: &Gpu, ws: &Workspace, jobs: &[Job<'_>]) -> Result<()> {
        let Some(first) = jobs.first() else { return Ok(()) };
        let cols = first.w.cols();
        let values = self.values(cols);
        let kernels = kernels(jobs.iter().map(|job| job.w.layout()));
        let matrices = || jobs.iter().map(|job| job.w);
        let has_rings = {
            let shared = |r: &Rows| ring::gemv_shared(r.max).max(ring::ONE_SHARED);
            kernels.iter().all(|r| ring::has(gpu, shared(r), matrices()))
        };
        let halves = has_rings && values.records() <= ws.half_records();
        // Kernels with rings know F16 weights only with halves.
        let has_rings = has_rings && (halves || matrices().all(|w| w.layout() != Layout::F16));
        let one = |w: &Matrix| matches!(w.layout(), Layout::Q8_0 | Layout::F16);
        let few = has_rings
            && self.rows.len() > FOUR
            && matrices().all(one)
            && ring::has(gpu, ring::gemv_few_shared(2), matrices());
        if self.rows.len() > if few { MANY_KEPT_ROWS } else { MANY_ROWS } {
            return self.run_many(gpu, ws, &values, jobs);
        }
        let values = Values { halves, ..values };
        let layouts = || jobs.iter().map(|job| job.w.layout());
        // One row with matrices in Q8_0 alone is rounded where it is used, unless it is rounded already.
        let near = has_rings
            && values.records() <= ring::RAW_MAX
            && values.n_rows == 1
            && cols.is_multiple_of(CHUNK_COLS)
            && layouts().all(|l| l == Layout::Q8_0)
            && matrices().all(|w| one::takes(w, self.n_groups));
        let raw = values.round_unless(near, gpu, ws, layouts())?;
        let x = Activations { values: &values, has_rings, raw };
        let mut row = 0;
        while few && row < self.rows.len() {
            let left = self.rows.len() - row;
            let [small, large] = &FEW;
            let (max, kernel) = if left <= small.0 { small } else { large };
            self.launch_few(gpu, ws, jobs, &x, (row, left.min(*max)), kernel)?;
            row += left.min(*max);
        }
        while row < self.rows.len() {
            let left = self.rows.len() - row;
            // The smallest that takes all, or the largest.
            let Some(rows) = kernels.iter().find(|r| r.max >= left).or(kernels.last()) else {
                break;
            };
            self.launch(gpu, ws, jobs, &x, (row, rows.max.min(left)), rows)?;
            row += rows.max.min(left);
        }
        Ok(())
    }

    /// All jobs for some rows, in units of so many panels.
    fn arranged(
        &self,
        ws: &Workspace,
        jobs: &[Job<'_>],
        x: &Activations<'_>,
        (row, n_rows): (usize, usize),
        panels: impl Fn(&Matrix) -> usize,
    ) -> GemvArgs {
        let mut args = GemvArgs {
            jobs: [GemvJob::default(); MAX_JOBS],
            grid: ws.grid(),
            n_jobs: jobs.len() as u32,
            n_rows: n_rows as u32,
            n_units: 0,
            unused: 0,
        };
        let mut units = 0;
        for (slot, job) in args.jobs.iter_mut().zip(jobs) {
            *slot = self.job(ws, x.values, row, job);
            slot.first_unit = units as u32;
            units += self.groups.len() * (slot.group_panels as usize).div_ceil(panels(job.w));
        }
        args.n_units = units as u32;
        args
    }

    /// Some rows from row `row` of the piece on.
    fn launch(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        jobs: &[Job<'_>],
        x: &Activations<'_>,
        (row, n_rows): (usize, usize),
        rows: &Rows,
    ) -> Result<()> {
        let Some(name) = rows.ring.filter(|_| x.has_rings) else {
            let panels = |w: &Matrix| WARPS / warps_of_panel(w.chunks());
            let args = self.arranged(ws, jobs, x, (row, n_rows), panels);
            let kernel = Kernel::new("matmul/gemv", rows.plain);
            return gpu.launch(&kernel, Launch::new(args.n_units as usize, 256), &args);
        };
        let launch = |units: usize| Launch::new(units.min(gpu.sms()), ring::THREADS);
        if n_rows == 1 && jobs.iter().all(|job| one::takes(job.w, self.n_groups)) {
            // Of a longer piece this may be the last row.
            let at = self.rows.start + row;
            let jobs: Vec<_> = jobs
                .iter()
                .map(|job| Job { out: job.out.add(at * job.stride * 4), ..*job })
                .collect();
            let values = (x.values, row, x.raw);
            let args = OneArgs::new(ws, values, &jobs, self.n_groups, &self.groups);
            return gpu.launch(&ONE, launch(args.n_units()).shared(ring::ONE_SHARED), &args);
        }
        let args = self.arranged(ws, jobs, x, (row, n_rows), ring::unit_panels);
        let launch = launch(args.n_units as usize);
        let kernel = Kernel::new("matmul/gemv_ring", name);
        gpu.launch(&kernel, launch.shared(ring::gemv_shared(rows.max)), &args)
    }

    /// The same by the kernels of `gemv_few.cu`.
    fn launch_few(
        &self,
        gpu: &Gpu,
        ws: &Workspace,
        jobs: &[Job<'_>],
        x: &Activations<'_>,
        (row, n_rows): (usize, usize),
        kernel: &Kernel,
    ) -> Result<()> {
        let args = self.arranged(ws, jobs, x, (row, n_rows), ring::unit_panels);
        let launch = Launch::new((args.n_units as usize).min(gpu.sms()), ring::THREADS);
        let shared = ring::gemv_few_shared(if kernel == &FEW[0].1 { 1 } else { 2 });
        gpu.launch(kernel, launch.shared(shared), &args)
    }

    fn run_many(&self, gpu: &Gpu, ws: &Workspace, values: &Values, jobs: &[Job<'_>]) -> Result<()> {
        let groups = Groups { all: self.n_groups, first: self.groups.start, n: self.groups.len() };
        let is_f16 = |w: &Matrix| wide::can_f16(gpu, ws, w, values);
        let can = |w: &Matrix| wide::can(gpu, w.layout()) || is_f16(w);
        let halves = match jobs.iter().any(|job| can(job.w)) {
            true => wide::round(gpu, ws, values, jobs.iter().any(|job| is_f16(job.w)))?,
            false => None,
        };
        let is_wide = |w: &Matrix| halves.is_some() && can(w);
        values.round(
            gpu,
            ws,
            jobs.iter().filter(|job| !is_wide(job.w)).map(|job| job.w.layout()),
        )?;
        let mut f16 = Vec::new();
        for Job { out, stride, w } in jobs {
            let to = (out.add(self.rows.start * stride * 4), *stride);
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
        &Job { out, stride, w }: &Job<'_>,
    ) -> GemvJob {
        let source = values.source(ws, w.layout(), row);
        GemvJob {
            m: w.args(),
            x: source.x,
            out: out.add((self.rows.start + row) * stride * 4),
            x_row_bytes: source.row_bytes,
            x_slice_bytes: source.slice_bytes,
            out_stride: stride as u32,
            groups: self.n_groups as u32,
            first_group: self.groups.start as u32,
            group_panels: w.group_panels(self.n_groups) as u32,
            first_unit: 0,
            unused: 0,
        }
    }
}
