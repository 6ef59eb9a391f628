//! The chosen experts of every row, summed in selection order.
//!
//! Rows are sorted by expert, so that each expert's weights are read once for all of its rows; every
//! thread takes a range of weight rows of every expert, or, of many rows, panels of all experts in turn.

use std::ops::Range;
use std::sync::Mutex;

use backend::{Act, Error, ExpertWeights, Result, Routing, Step};
use quant::dot::{Kernels, Out};

use crate::device::NAME;
use crate::parallel::{Inputs, PANEL, Shares, Stretches, each_row, is_many, panels, rows_in, unit};
use crate::pool::Pool;
use crate::work::{EXPERT_ROWS, ExpertWork, ThreadWork, Work};
use crate::{Cpu, Floats, Parts};

/// The operation; what is `beside` is added last.
pub(crate) fn routed_experts(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    (x, beside): (&Act<Floats>, Option<&Act<Floats>>),
    w: &ExpertWeights<Cpu>,
    routing: &Routing<Floats, Vec<u32>>,
    step: &Step,
) -> Result<()> {
    let used = routing.ids.cols;
    let Parts { pool, kernels, work, .. } = cpu;
    let Work { threads, rounded, shares, experts, .. } = work;
    for first in (0..step.rows.len()).step_by(EXPERT_ROWS) {
        let n_rows = EXPERT_ROWS.min(step.rows.len() - first);
        let ids = &routing.ids.buf[first * used..][..n_rows * used];
        sort(experts, ids, used, w.gate.tensor.experts)?;

        let values = &x.buf[first * x.cols..][..n_rows * x.cols];
        let mut inputs = Inputs { values, cols: x.cols, rounded };
        inputs.round(pool, kernels, &[w.gate.tensor.ty, w.up.tensor.ty]);
        let many = is_many(step.rows.len());
        let mut block = Block { pool, kernels, threads, shares, weights: w, many };
        let scales = &routing.weights.buf[first * used..][..n_rows * used];
        block.gate_and_up(&inputs, experts, scales);
        block.down(experts, n_rows * used);
        let out = &mut out.buf[first * out.cols..][..n_rows * out.cols];
        let beside = beside.map(|beside| &beside.buf[first * beside.cols..]);
        block.sum(experts, used, beside, out);
    }
    Ok(())
}

/// Sorts pairs of row and chosen expert by expert, rows in ascending order within each.
fn sort(work: &mut ExpertWork, ids: &[u32], used: usize, n_experts: usize) -> Result<()> {
    work.starts.fill(0);
    for &id in ids {
        // Hash routing takes ids from the file.
        if id as usize >= n_experts {
            return Err(Error::Unsupported {
                device: NAME,
                what: "a chosen expert".to_owned(),
                expected: format!("an id below {n_experts}"),
                found: id.to_string(),
            });
        }
        work.starts[id as usize + 1] += 1;
    }
    for e in 0..n_experts {
        work.starts[e + 1] += work.starts[e];
    }
    work.next[..n_experts].copy_from_slice(&work.starts[..n_experts]);
    for (pair, &id) in ids.iter().enumerate() {
        let next = &mut work.next[id as usize];
        work.pairs[*next as usize] = pair as u32;
        work.rows[*next as usize] = (pair / used) as u32;
        work.places[pair] = *next;
        *next += 1;
    }
    Ok(())
}

/// Threads and weights of one call.
struct Block<'a> {
    pool: &'a mut Pool,
    kernels: Kernels,
    threads: &'a [Mutex<ThreadWork>],
    shares: &'a mut Shares,
    weights: &'a ExpertWeights<Cpu>,
    /// Whether threads take panels of all experts' rows in turn, and not shares of them.
    many: bool,
}

impl Block<'_> {
    /// `gate = weight * swiglu(gate · x, up · x)` of every pair, in sorted order.
    fn gate_and_up(&mut self, inputs: &Inputs<'_>, experts: &mut ExpertWork, scales: &[f32]) {
        let (w, kernels, threads) = (self.weights, self.kernels, self.threads);
        let inner = w.gate.tensor.rows;
        let ExpertWork { pairs, rows, starts, gate, up, .. } = experts;
        let n_pairs = scales.len();
        let gates = Out::new(gate, n_pairs, inner, inner);
        let ups = Out::new(up, n_pairs, inner, inner);
        let row_bytes = w.gate.matrix(0).row_bytes() + w.up.matrix(0).row_bytes();
        let division = Division::new(self.shares, (starts, self.many), (inner, row_bytes));
        self.pool.run(|thread| {
            let mut work = Work::thread(threads, thread);
            division.each(thread, |(expert, from, n), range| {
                // SAFETY: threads have different columns, experts different rows.
                let [mut gate, mut up] =
                    [&gates, &ups].map(|out| unsafe { out.tile(from..from + n, range.clone()) });
                for (weight, out) in [(&w.gate, &mut gate), (&w.up, &mut up)] {
                    let matrix = weight.matrix(expert).slice(range.start, range.end);
                    let acts = inputs.acts(matrix.ty(), &rows[from..from + n]);
                    kernels.matmul(&matrix, &acts, out, &mut work.kernels);
                }
                for i in 0..n {
                    let scale = scales[pairs[from + i] as usize];
                    kernels.swiglu(gate.row_mut(i), up.row_mut(i), w.clamp, scale);
                }
            });
        });
    }

    /// The down product of every pair, in sorted order.
    fn down(&mut self, experts: &mut ExpertWork, n_pairs: usize) {
        let (w, kernels, threads) = (self.weights, self.kernels, self.threads);
        let (hidden, inner) = (w.down.tensor.rows, w.down.tensor.cols);
        let ExpertWork { starts, gate, out, rounded, identity, .. } = experts;
        let values = &gate[..n_pairs * inner];
        let mut inputs = Inputs { values, cols: inner, rounded };
        inputs.round(self.pool, kernels, &[w.down.tensor.ty]);
        let out = Out::new(out, n_pairs, hidden, hidden);
        let (inputs, identity) = (&inputs, &*identity);
        let row_bytes = w.down.matrix(0).row_bytes();
        let division = Division::new(self.shares, (starts, self.many), (hidden, row_bytes));
        self.pool.run(|thread| {
            let mut work = Work::thread(threads, thread);
            division.each(thread, |(expert, from, n), range| {
                let matrix = w.down.matrix(expert).slice(range.start, range.end);
                let acts = inputs.acts(matrix.ty(), &identity[from..from + n]);
                // SAFETY: threads have different columns, experts different rows.
                let mut out = unsafe { out.tile(from..from + n, range) };
                kernels.matmul(&matrix, &acts, &mut out, &mut work.kernels);
            });
        });
    }

    /// Adds the experts of every row in the order of their selection, then what is `beside`.
    fn sum(&mut self, experts: &ExpertWork, used: usize, beside: Option<&[f32]>, out: &mut [f32]) {
        let hidden = self.weights.down.tensor.rows;
        let n_rows = out.len() / hidden;
        each_row(self.pool, out, hidden, n_rows, |r, out| {
            out.fill(0.0);
            for &place in &experts.places[r * used..][..used] {
                let y = &experts.out[place as usize * hidden..][..hidden];
                out.iter_mut().zip(y).for_each(|(o, y)| *o += y);
            }
            if let Some(beside) = beside {
                out.iter_mut().zip(&beside[r * hidden..]).for_each(|(o, y)| *o += y);
            }
        });
    }
}

/// Which weight rows of which experts a thread multiplies.
struct Division<'a> {
    starts: &'a [u32],
    rows: usize,
    row_bytes: usize,
    n_threads: usize,
    shares: &'a Shares,
    /// Panels of all experts, where threads take them in turn.
    stretches: Option<Stretches>,
}

impl<'a> Division<'a> {
    /// Of matrices of so many weight rows and bytes in each.
    fn new(
        shares: &'a mut Shares,
        (starts, many): (&'a [u32], bool),
        (rows, row_bytes): (usize, usize),
    ) -> Self {
        let (used, n_threads) = (used_experts(starts).count(), shares.threads());
        let stretches = many.then(|| Stretches::new(used * rows.div_ceil(PANEL), n_threads));
        let shares = shares.of(used * rows * row_bytes);
        Self { starts, rows, row_bytes, n_threads, shares, stretches }
    }

    /// Calls `work` with an expert, its first pair and number of pairs, and a range of its weight rows.
    fn each(&self, thread: usize, mut work: impl FnMut((usize, usize, usize), Range<usize>)) {
        let Self { starts, rows, row_bytes, n_threads, .. } = *self;
        let mut work = |expert, range: Range<usize>| {
            if !range.is_empty() {
                work(expert, range);
            }
        };
        let Some(stretches) = &self.stretches else {
            while let Some(taken) = self.shares.take(thread) {
                for (i, expert) in used_experts(starts).enumerate() {
                    let unit = unit(rows, expert.2, n_threads);
                    work(expert, rows_in(&taken, i * rows * row_bytes, (rows, row_bytes), unit));
                }
            }
            return;
        };
        let panels_of_one = rows.div_ceil(PANEL);
        while let Some(units) = stretches.take() {
            for (i, expert) in used_experts(starts).enumerate() {
                work(expert, panels(&units, i * panels_of_one, rows));
            }
        }
    }
}

/// Expert, first pair and number of pairs of every expert that has some.
fn used_experts(starts: &[u32]) -> impl Iterator<Item = (usize, usize, usize)> {
    starts
        .windows(2)
        .enumerate()
        .map(|(e, pair)| (e, pair[0] as usize, (pair[1] - pair[0]) as usize))
        .filter(|&(_, _, n)| n > 0)
}
