//! The chosen experts of every row, and the shared one.

use backend::{Act, ExpertWeights, Result, Routing};

use super::experts_one as one;
use super::round::Values;
use super::weights::{Layout, Matrix, MatrixArgs, Rounding};
use super::workspace::{RECORD_32, RECORD_256};
use super::{CHUNK_COLS, CHUNK_ROWS, FEW_ROWS, Workspace, few, ring, sorted, unsupported, wide};
use crate::Cuda;
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::hyper_connection::NextArgs;

/// Experts of a row that the kernels can add up.
const MAX_USED: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct BankArgs {
    gate: MatrixArgs,
    up: MatrixArgs,
    gate_x: DevicePtr,
    up_x: DevicePtr,
    ids: DevicePtr,
    weights: DevicePtr,
    out: DevicePtr,
    gate_row_bytes: u32,
    up_row_bytes: u32,
    used: u32,
    n_experts: u32,
    pub(super) n_pairs: u32,
    clamp: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UpArgs {
    pub(super) banks: [BankArgs; 2],
    pub(super) grid: DevicePtr,
}

// SAFETY: `repr(C)`, as in `experts.cu`, without padding.
unsafe impl Args for UpArgs {}

#[repr(C)]
#[derive(Clone, Copy)]
struct DownArgs {
    down: MatrixArgs,
    shared_down: MatrixArgs,
    x: DevicePtr,
    shared_x: DevicePtr,
    raw: DevicePtr,
    ids: DevicePtr,
    grid: DevicePtr,
    out: DevicePtr,
    row_bytes: u32,
    shared_row_bytes: u32,
    used: u32,
    n_experts: u32,
    flags: u32,
    n_rows: u32,
}

/// The sum is added to what is there; the choice is there when the kernel begins (`experts.cuh`).
const DOWN_ADDS: u32 = 1;
const DOWN_KNOWS_IDS: u32 = 2;

// SAFETY: `repr(C)`, as in `experts.cu`, and the last field fills the padding.
unsafe impl Args for DownArgs {}

/// Kernels of both products for a set of layouts.
struct Kernels {
    up: &'static str,
    down: &'static str,
    ring_up: &'static str,
    ring_down: &'static str,
}

/// Those of published files with a shared expert in Q8_0, or any.
fn kernels(layouts: impl Iterator<Item = Layout> + Clone) -> Kernels {
    let named = |up, down, ring_up, ring_down| Kernels { up, down, ring_up, ring_down };
    let all = |layout| layouts.clone().all(|l| l == layout || l == Layout::Q8_0);
    if all(Layout::Iq2Xxs) {
        named("up_iq2_xxs", "down_iq2_xxs", "ring_up_iq2_xxs", "ring_down_iq2_xxs")
    } else if all(Layout::Q2K) {
        named("up_q2_k", "down_q2_k", "ring_up_q2_k", "ring_down_q2_k")
    } else if all(Layout::Q4K) {
        named("up_q4_k", "down_q4_k", "ring_up_q4_k", "ring_down_q4_k")
    } else if all(Layout::Mxfp4) {
        named("up_mxfp4", "down_mxfp4", "ring_up_mxfp4", "ring_down_mxfp4")
    } else {
        named("up_any", "down_any", "ring_up_any", "ring_down_any")
    }
}

/// Whether experts of these matrices have kernels with rings; no file has experts in F16.
fn has_ring<'a>(
    gpu: &Gpu,
    shared: usize,
    matrices: impl Iterator<Item = &'a Matrix> + Clone,
) -> bool {
    ring::has(gpu, shared, matrices.clone()) && matrices.clone().all(|m| m.layout() != Layout::F16)
}

/// Shared memory of the kernel of the sums with rings, and of the records of one row's pairs.
fn down_shared(bank: &Bank<'_>, shared: Option<&Bank<'_>>) -> usize {
    let slots = bank.used() * ring::slots(bank.down) + shared.map_or(0, |s| ring::slots(s.down));
    ring::experts_shared(slots)
}

fn record_bytes(bank: &Bank<'_>, shared: Option<&Bank<'_>>) -> usize {
    bank.used() * bank.down.chunks() * RECORD_256
        + shared.map_or(0, |s| s.down.chunks() * RECORD_32)
}

/// Experts that the same rows go through; the shared expert is a bank of one.
pub(super) struct Bank<'a> {
    pub(super) gate: &'a Matrix,
    pub(super) up: &'a Matrix,
    pub(super) down: &'a Matrix,
    pub(super) clamp: f32,
    /// Ids and weights of the pairs, and how many a row has; `None` for the shared expert.
    pub(super) routing: Option<(DevicePtr, DevicePtr, usize)>,
}

impl<'a> Bank<'a> {
    fn new(w: &'a ExpertWeights<Cuda>, routing: Option<&Routing<Buffer, Buffer>>) -> Result<Self> {
        let (gate, up, down) = (w.gate.matrix()?, w.up.matrix()?, w.down.matrix()?);
        let routing = routing.map(|r| (r.ids.buf.ptr(), r.weights.buf.ptr(), r.ids.cols));
        let bank = Self { gate, up, down, clamp: w.clamp, routing };
        if bank.used() > MAX_USED {
            let expected = format!("at most {MAX_USED} experts a row");
            return Err(unsupported(gate.name(), expected, bank.used().to_string()));
        }
        assert_eq!(gate.rows(), up.rows(), "{}: rows as {}", up.name(), gate.name());
        assert_eq!(gate.rows(), down.cols(), "{}: columns as rows of {}", down.name(), gate.name());
        Ok(bank)
    }

    pub(super) fn used(&self) -> usize {
        self.routing.map_or(1, |(_, _, used)| used)
    }

    /// Where the ids of row `first` lie, and the weights.
    pub(super) fn routing_from(&self, first: usize) -> (DevicePtr, DevicePtr) {
        self.routing.map_or((DevicePtr::NULL, DevicePtr::NULL), |(ids, weights, used)| {
            (ids.add(first * used * 4), weights.add(first * used * 4))
        })
    }
}

/// `out[r] = Σ_i expert_{ids[r][i]}(x[r])`.
pub(crate) fn routed_experts(
    gpu: &Gpu,
    ws: &Workspace,
    out: &Act<Buffer>,
    x: &Act<Buffer>,
    w: &ExpertWeights<Cuda>,
    routing: &Routing<Buffer, Buffer>,
    n_rows: usize,
) -> Result<()> {
    let routed = Bank::new(w, Some(routing))?;
    Rows { gpu, ws, out, next: None, x, n_rows, routed: false }
        .run(&routed, None, false)
        .map(|_| ())
}

/// The routed experts and the shared one, which is added last. `next` is a site that the sums may go to instead
/// of `y`. Whether they have. `routed`: the last kernel launched was the router's, which read `x`.
pub(crate) fn mixture(
    gpu: &Gpu,
    ws: &Workspace,
    (y, next): (&Act<Buffer>, Option<&NextArgs>),
    x: &Act<Buffer>,
    (routed, shared): (&ExpertWeights<Cuda>, &ExpertWeights<Cuda>),
    routing: &Routing<Buffer, Buffer>,
    (n_rows, after_router): (usize, bool),
) -> Result<bool> {
    let (routed, shared) = (Bank::new(routed, Some(routing))?, Bank::new(shared, None)?);
    let rows = Rows { gpu, ws, out: y, next, x, n_rows, routed: after_router };
    if shared.gate.rows() == routed.gate.rows() {
        return rows.run(&routed, Some(&shared), false);
    }
    let rows = Rows { next: None, routed: false, ..rows };
    rows.run(&routed, None, false)?;
    rows.run(&shared, None, true)
}

/// Rows that go through experts.
pub(super) struct Rows<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) ws: &'a Workspace,
    pub(super) out: &'a Act<Buffer>,
    pub(super) next: Option<&'a NextArgs>,
    x: &'a Act<Buffer>,
    n_rows: usize,
    /// Whether the last kernel launched was the router's, which read `x`.
    routed: bool,
}

impl Rows<'_> {
    /// As many rows at a time as the workspace holds. `add`: the sum is added to the output. Whether it has gone
    /// to the next site instead.
    fn run(&self, bank: &Bank<'_>, shared: Option<&Bank<'_>>, add: bool) -> Result<bool> {
        assert_eq!(
            self.x.cols,
            bank.gate.cols(),
            "{}: width of {}",
            self.x.label,
            bank.gate.name()
        );
        assert_eq!(self.out.cols, bank.down.rows(), "{}: outputs", self.out.label);
        let per_row = bank.used() + usize::from(shared.is_some());
        let chunks = bank.gate.chunks().max(per_row * bank.down.chunks());
        let rows = (self.ws.pairs(bank.gate.rows()) / per_row).min(self.ws.records() / chunks);
        if rows == 0 {
            let expected = "experts of the sizes that `prepare` was told";
            return Err(unsupported(bank.gate.name(), expected, bank.gate.rows().to_string()));
        }
        let can = |b: &Bank<'_>| wide::can_experts(self.gpu, b);
        if !add && few::can(self, bank, shared, self.n_rows) {
            return few::mixture(self, bank, shared, self.n_rows).map(|()| false);
        }
        if self.n_rows > FEW_ROWS
            && bank.routing.is_some()
            && !add
            && can(bank)
            && shared.is_none_or(can)
            && wide::fits(self.ws, bank, shared.is_some(), self.n_rows)
        {
            return wide::mixture(self, bank, shared, 0, self.n_rows).map(|()| false);
        }
        if self.n_rows > FEW_ROWS && sorted::can(self.gpu, bank) && !add {
            let results = self.ws.result_rows(bank.down.rows()) / bank.used();
            return self.run_sorted(bank, shared, rows.min(results)).map(|()| false);
        }
        let mut crossed = false;
        for first in (0..self.n_rows).step_by(rows) {
            crossed = self.piece(bank, shared, add, first, rows.min(self.n_rows - first))?;
        }
        Ok(crossed)
    }

    fn run_sorted(&self, bank: &Bank<'_>, shared: Option<&Bank<'_>>, rows: usize) -> Result<()> {
        if rows == 0 {
            let expected = "a step of the size that `prepare` was told";
            return Err(unsupported(bank.gate.name(), expected, self.n_rows.to_string()));
        }
        for first in (0..self.n_rows).step_by(rows) {
            let n_rows = rows.min(self.n_rows - first);
            sorted::routed(self, bank, first, n_rows)?;
            if let Some(shared) = shared {
                sorted::add_shared(self, shared, first, n_rows)?;
            }
        }
        Ok(())
    }

    /// Rows from `first` on, as they come.
    pub(super) fn values(&self, first: usize, n_rows: usize) -> Values {
        Values {
            x: self.x.buf.ptr().add(first * self.x.cols * 4),
            stride: self.x.cols,
            cols: self.x.cols,
            n_slices: 1,
            n_rows,
            halves: false,
        }
    }

    /// Where the results of row `first` go.
    pub(super) fn out_from(&self, first: usize) -> DevicePtr {
        self.out.buf.ptr().add(first * self.out.cols * 4)
    }

    fn piece(
        &self,
        bank: &Bank<'_>,
        shared: Option<&Bank<'_>>,
        add: bool,
        first: usize,
        n_rows: usize,
    ) -> Result<bool> {
        let (gpu, ws) = (self.gpu, self.ws);
        let (inner, pairs) = (bank.gate.rows(), n_rows * bank.used());
        let x = self.values(first, n_rows);
        let banks = || std::iter::once(bank).chain(shared);
        let layouts = || banks().flat_map(|b| [b.gate.layout(), b.up.layout()]);
        let rounds = x.round_unless(true, gpu, ws, layouts())?;
        if rounds {
            x.round(gpu, ws, layouts())?;
        }
        let up = |x: &Values| UpArgs {
            banks: [
                self.bank(x, bank, first, 0),
                shared.map(|s| self.bank(x, s, first, pairs)).unwrap_or_default(),
            ],
            grid: ws.grid(),
        };
        if n_rows == 1 && !add && one::can(self, bank, shared) {
            let knows_x = self.routed && !rounds && first == 0;
            return one::mixture(self, &up(&x), (bank, shared), first, knows_x);
        }
        let all_pairs = pairs + shared.map_or(0, |_| n_rows);
        let holds = self.launch_up(&up(&x), bank, shared, all_pairs)?;

        let h = Values {
            x: ws.hidden(),
            stride: inner,
            cols: inner,
            n_slices: 1,
            n_rows: all_pairs,
            halves: false,
        };
        let near =
            n_rows == 1 && inner.is_multiple_of(CHUNK_COLS) && self.rounds_near(bank, shared);
        let raw = h.round_unless(near, gpu, ws, banks().map(|b| b.down.layout()))?;
        let source = h.source(ws, bank.down.layout(), 0);
        let shared_source = shared.map(|s| h.source(ws, s.down.layout(), pairs));
        let down = DownArgs {
            down: bank.down.args(),
            shared_down: shared.map(|s| s.down.args()).unwrap_or_default(),
            x: source.x,
            shared_x: shared_source.map_or(DevicePtr::NULL, |s| s.x),
            raw: if raw { h.x } else { DevicePtr::NULL },
            ids: bank.routing_from(first).0,
            grid: ws.grid(),
            out: self.out_from(first),
            row_bytes: source.row_bytes,
            shared_row_bytes: shared_source.map_or(0, |s| s.row_bytes),
            used: bank.used() as u32,
            n_experts: bank.down.experts() as u32,
            flags: if add { DOWN_ADDS } else { 0 } | if holds { DOWN_KNOWS_IDS } else { 0 },
            n_rows: n_rows as u32,
        };
        self.launch_down(&down, bank, shared, n_rows).map(|()| false)
    }

    /// Whether the kernel lets the next begin only when the choice is there.
    fn launch_up(
        &self,
        args: &UpArgs,
        bank: &Bank<'_>,
        shared: Option<&Bank<'_>>,
        pairs: usize,
    ) -> Result<bool> {
        let banks = || std::iter::once(bank).chain(shared);
        let matrices = || banks().flat_map(|b| [b.gate, b.up]);
        let kernels = kernels(matrices().map(Matrix::layout));
        let panels = bank.gate.rows().div_ceil(CHUNK_ROWS);
        let bytes = ring::experts_shared(ring::WARPS);
        if has_ring(self.gpu, bytes, matrices()) {
            let launch = Launch::new((panels * pairs).min(self.gpu.sms()), ring::THREADS);
            let kernel = Kernel::new("matmul/experts_ring", kernels.ring_up);
            self.gpu.launch(&kernel, launch.shared(bytes), args)?;
            return Ok(true);
        }
        let kernel = Kernel::new("matmul/experts", kernels.up);
        self.gpu.launch(&kernel, Launch::grid2(panels, pairs, 256), args)?;
        Ok(false)
    }

    /// Whether the kernel of the sums can make the records of one row's pairs for itself: of the chosen
    /// experts with a scale for every 256 columns, of the shared one for every 32.
    fn rounds_near(&self, bank: &Bank<'_>, shared: Option<&Bank<'_>>) -> bool {
        let matrices = || std::iter::once(bank).chain(shared).map(|b| b.down);
        let bytes = down_shared(bank, shared) + record_bytes(bank, shared);
        bank.down.layout().rounding() == Rounding::By256
            && shared.is_none_or(|s| s.down.layout().rounding() == Rounding::By32)
            && has_ring(self.gpu, bytes, matrices())
    }

    fn launch_down(
        &self,
        args: &DownArgs,
        bank: &Bank<'_>,
        shared: Option<&Bank<'_>>,
        n_rows: usize,
    ) -> Result<()> {
        let matrices = || std::iter::once(bank).chain(shared).map(|b| b.down);
        let kernels = kernels(matrices().map(Matrix::layout));
        let panels = bank.down.rows().div_ceil(CHUNK_ROWS);
        let bytes = down_shared(bank, shared)
            + if args.raw == DevicePtr::NULL { 0 } else { record_bytes(bank, shared) };
        if has_ring(self.gpu, bytes, matrices()) {
            let launch = Launch::new((panels * n_rows).min(self.gpu.sms()), ring::THREADS);
            let kernel = Kernel::new("matmul/experts_ring", kernels.ring_down);
            return self.gpu.launch(&kernel, launch.shared(bytes), args);
        }
        let kernel = Kernel::new("matmul/experts", kernels.down);
        self.gpu.launch(&kernel, Launch::grid2(panels, n_rows, 256), args)
    }

    /// A bank's pairs of the rows from `first` on; their results begin at row `at` of `hidden`.
    fn bank(&self, x: &Values, bank: &Bank<'_>, first: usize, at: usize) -> BankArgs {
        let ws = self.ws;
        let (gate, up) = (x.source(ws, bank.gate.layout(), 0), x.source(ws, bank.up.layout(), 0));
        let (ids, weights) = bank.routing_from(first);
        BankArgs {
            gate: bank.gate.args(),
            up: bank.up.args(),
            gate_x: gate.x,
            up_x: up.x,
            ids,
            weights,
            out: ws.hidden().add(at * bank.gate.rows() * 4),
            gate_row_bytes: gate.row_bytes,
            up_row_bytes: up.row_bytes,
            used: bank.used() as u32,
            n_experts: bank.gate.experts() as u32,
            n_pairs: (x.n_rows * bank.used()) as u32,
            clamp: bank.clamp,
        }
    }
}
