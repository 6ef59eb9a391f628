//! Products of one row with matrices in Q8_0 and F16 (`cuda/matmul/gemv_one.cu`).

use std::ops::Range;

use backend::{Act, Result};

use super::gemv::{Job, MAX_JOBS};
use super::ring::{self, SLOT_BYTES, WARPS, slots};
use super::round::Values;
use super::weights::{Layout, Matrix};
use super::{CHUNK_ROWS, Workspace};
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::hyper_connection::NextArgs;

const ROUNDED: Kernel = Kernel::new("matmul/gemv_one", "gemv_one_rounded");
const NEXT: Kernel = Kernel::new("matmul/gemv_one", "gemv_one_next");

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct OneJob {
    w: DevicePtr,
    x: DevicePtr,
    out: DevicePtr,
    first_unit: u32,
    units: u32,
    x_slice_bytes: u32,
    panel_bytes: u32,
    group_panels: u32,
    rows: u32,
    slots: u32,
    panels: u32,
    inverse: u32,
    is_f16: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct OneArgs {
    jobs: [OneJob; MAX_JOBS],
    raw: DevicePtr,
    rounded: DevicePtr,
    n_jobs: u32,
    n_units: u32,
    n_raw: u32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `gemv_one.cu`; `unused` fills the padding.
unsafe impl Args for OneArgs {}

/// A product, and where its results go.
#[repr(C)]
#[derive(Clone, Copy)]
struct OneNextArgs {
    product: OneArgs,
    next: NextArgs,
}

// SAFETY: `repr(C)`, as in `gemv_one.cu`, without padding.
unsafe impl Args for OneNextArgs {}

/// See [`super::out_of_heads_next`].
pub(super) fn products_next(
    gpu: &Gpu,
    ws: &Workspace,
    (low, records): (&Act<Buffer>, &Buffer),
    x: &Act<Buffer>,
    (w, out): (&Matrix, &Matrix),
    n_groups: usize,
    next: &NextArgs,
) -> Result<bool> {
    assert_eq!(x.cols, w.cols() * n_groups, "{}: inputs of {}", x.label, w.name());
    assert_eq!(low.cols, w.rows(), "{}: outputs of {}", low.label, w.name());
    assert_eq!(low.cols, out.cols(), "{}: inputs of {}", low.label, out.name());
    let values = |x: &Act<Buffer>, cols, n_slices| {
        let x = x.buf.ptr();
        Values { x, stride: cols * n_slices, cols, n_slices, n_rows: 1, halves: false }
    };
    let heads = values(x, w.cols(), n_groups);
    let can = next.takes(out.rows())
        && [w, out].iter().all(|w| w.layout() == Layout::Q8_0)
        && (w.rows() / n_groups).is_multiple_of(2 * CHUNK_ROWS)
        && heads.records() <= ws.records()
        && ring::has(gpu, ring::ONE_SHARED_MAX, [w, out].into_iter());
    if !can {
        return Ok(false);
    }
    heads.round(gpu, ws, std::iter::once(w.layout()))?;
    let job = Job { out: low.buf.ptr(), stride: low.cols, w };
    let mut args = OneArgs::new(ws, (&heads, 0, false), &[job], n_groups, &(0..n_groups));
    args.rounded = records.ptr();
    args.one_panel_a_unit();
    let launch = Launch::new((args.n_units() / 2).min(gpu.sms()), ring::THREADS);
    gpu.launch(&ROUNDED, launch.shared(ring::ONE_ROUNDED_SHARED), &args)?;

    let job = Job { out: DevicePtr::NULL, stride: 0, w: out };
    let mut product = OneArgs::new(ws, (&values(low, low.cols, 1), 0, false), &[job], 1, &(0..1));
    product.jobs[0].x = records.ptr();
    product.one_panel_a_unit();
    let launch = Launch::new(next.chunks().min(gpu.sms()), ring::THREADS);
    let args = OneNextArgs { product, next: *next };
    gpu.launch(&NEXT, launch.shared(ring::ONE_NEXT_SHARED), &args)?;
    Ok(true)
}

/// Whether the kernel takes the matrix, of whose rows in `n_groups` equal parts each meets a slice of the row.
pub(super) fn takes(w: &Matrix, n_groups: usize) -> bool {
    matches!(w.layout(), Layout::Q8_0 | Layout::F16)
        && (n_groups == 1 || (w.rows() / n_groups).is_multiple_of(CHUNK_ROWS))
}

impl OneArgs {
    /// Of all jobs and of those of `n_groups` groups that lie in `groups`, for row `row` of the values. `raw`: whether
    /// the kernel rounds the row.
    pub(super) fn new(
        ws: &Workspace,
        (values, row, raw): (&Values, usize, bool),
        jobs: &[Job<'_>],
        n_groups: usize,
        groups: &Range<usize>,
    ) -> Self {
        let mut args = Self {
            jobs: [OneJob::default(); MAX_JOBS],
            raw: if raw { values.x } else { DevicePtr::NULL },
            rounded: DevicePtr::NULL,
            n_jobs: jobs.len() as u32,
            n_units: 0,
            n_raw: values.records() as u32,
            unused: 0,
        };
        for (to, job) in args.jobs.iter_mut().zip(jobs) {
            *to = OneJob::new(ws, (values, row, raw), job, n_groups, groups.start);
            to.first_unit = args.n_units;
            args.n_units += to.units * groups.len() as u32;
        }
        args
    }

    /// Units of the only matrix become panels, which pairs are made of.
    fn one_panel_a_unit(&mut self) {
        let [job, ..] = &mut self.jobs;
        let groups = self.n_units / job.units.max(1);
        (job.panels, job.inverse, job.units) = (1, 0, job.group_panels);
        self.n_units = groups * job.units;
    }

    pub(super) fn n_units(&self) -> usize {
        self.n_units as usize
    }
}

impl OneJob {
    fn new(
        ws: &Workspace,
        (values, row, raw): (&Values, usize, bool),
        &Job { out, w, .. }: &Job<'_>,
        n_groups: usize,
        group: usize,
    ) -> Self {
        let source = values.source(ws, w.layout(), row);
        let (group_rows, panels) = (w.rows() / n_groups, ring::unit_panels(w));
        let group_panels = group_rows.div_ceil(CHUNK_ROWS);
        let is_f16 = w.layout() == Layout::F16;
        let panel_bytes = match is_f16 {
            true => CHUNK_ROWS * w.cols() * 2,
            false => w.chunks() * SLOT_BYTES,
        };
        let first = group * group_panels;
        Self {
            w: w.args().w.add(first * panel_bytes),
            x: if raw { DevicePtr::NULL } else { source.x },
            out: out.add(first * CHUNK_ROWS * 4),
            first_unit: 0,
            units: group_panels.div_ceil(panels) as u32,
            x_slice_bytes: source.slice_bytes,
            panel_bytes: panel_bytes as u32,
            group_panels: group_panels as u32,
            rows: (w.rows() - first * CHUNK_ROWS) as u32,
            slots: slots(w) as u32,
            panels: panels as u32,
            // A warp's number times this over 2^16 is that over `slots`, rounded down.
            inverse: if slots(w) < WARPS { (1_usize << 16).div_ceil(slots(w)) as u32 } else { 0 },
            is_f16: u32::from(is_f16),
        }
    }
}
