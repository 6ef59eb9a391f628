//! Matrix products: the inputs are rounded once, then threads take ranges of weight rows.

use std::ops::Range;
use std::sync::Mutex;

use backend::Act;
use quant::dot::{ActFormat, Kernels, Out, Weights};

use crate::parallel::{Inputs, PANEL, Stretches, is_many, panels, rows_in, unit};
use crate::pool::Pool;
use crate::work::{ThreadWork, Work};
use crate::{Floats, Parts, Weight};

pub(crate) fn matmul(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &Weight,
    n_rows: usize,
) {
    grouped(cpu, out, x, w, 1, n_rows);
}

/// Group `g` of the weight rows meets slice `g` of every input row.
pub(crate) fn grouped(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &Weight,
    n_groups: usize,
    n_rows: usize,
) {
    let Parts { pool, kernels, work, shape } = cpu;
    // A group's slices are rows of their own.
    let (values, cols) = (&x.buf[..n_rows * x.cols], x.cols / n_groups);
    let mut inputs = Inputs { values, cols, rounded: &mut work.rounded };
    inputs.round(pool, kernels, &[w.tensor.ty]);
    grouped_rounded(Parts { pool, kernels, work, shape }, out, x, w, n_groups, n_rows);
}

/// As [`grouped`], of inputs whose slices are rounded already.
pub(crate) fn grouped_rounded(
    cpu: Parts<'_>,
    out: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &Weight,
    n_groups: usize,
    n_rows: usize,
) {
    let weights = w.matrix(0);
    let (rows, cols) = (weights.rows(), weights.cols());
    assert_eq!(out.cols, rows, "{}: outputs of {}", out.label, w.tensor.name);
    assert_eq!(x.cols, cols * n_groups, "{}: inputs of {}", x.label, w.tensor.name);
    if n_rows == 0 {
        return;
    }
    let Parts { pool, kernels, work, .. } = cpu;
    let Work { threads, rounded, shares, index, .. } = work;

    // A group's slices are rows `g`, `g + n_groups`, ... of the inputs taken as narrower rows.
    let inputs = Inputs { values: &x.buf[..n_rows * x.cols], cols, rounded };
    index.clear();
    index.extend((0..n_groups * n_rows).map(|i| (i % n_rows * n_groups + i / n_rows) as u32));

    let (group_rows, n_threads) = (rows / n_groups, pool.threads());
    let few = n_groups == 1 && rows < 2 * PANEL * n_threads;
    if few && is_many(n_rows) && ActFormat::of(weights.ty()) == ActFormat::F32 {
        let out = Out::new(&mut out.buf, n_rows, rows, rows);
        return few_outputs((pool, kernels, threads), &out, &inputs, weights, index);
    }
    let unit = unit(group_rows, n_rows, n_threads);
    let (inputs, index) = (&inputs, &*index);
    let out = Out::new(&mut out.buf, n_rows, rows, rows);
    let panels_of_group = group_rows.div_ceil(PANEL).max(1);
    let stretches = Stretches::new(n_groups * panels_of_group, n_threads);
    let group_bytes = group_rows * weights.row_bytes();
    let shares = shares.of(n_groups * group_bytes);
    pool.run(|thread| {
        let mut work = Work::thread(threads, thread);
        let mut multiply = |group: usize, range: Range<usize>| {
            let (start, end) = (group * group_rows + range.start, group * group_rows + range.end);
            let acts = inputs.acts(weights.ty(), &index[group * n_rows..][..n_rows]);
            // SAFETY: threads have different ranges of weight rows, which are columns here.
            let mut out = unsafe { out.tile(0..n_rows, start..end) };
            kernels.matmul(&weights.slice(start, end), &acts, &mut out, &mut work.kernels);
        };
        if is_many(n_rows) {
            while let Some(units) = stretches.take() {
                for group in units.start / panels_of_group..units.end.div_ceil(panels_of_group) {
                    multiply(group, panels(&units, group * panels_of_group, group_rows));
                }
            }
        } else {
            while let Some(taken) = shares.take(thread) {
                for group in 0..n_groups {
                    let of_group = (group_rows, weights.row_bytes());
                    multiply(group, rows_in(&taken, group * group_bytes, of_group, unit));
                }
            }
        }
    });
}

/// Activation rows that are given out together where weight rows are few: a multiple of what kernels of floats take.
const TILE: usize = 12;

/// Too few weight rows to divide, which nothing has to be unpacked of: activation rows are divided.
fn few_outputs(
    (pool, kernels, threads): (&mut Pool, Kernels, &[Mutex<ThreadWork>]),
    out: &Out<'_>,
    inputs: &Inputs<'_>,
    weights: Weights<'_>,
    index: &[u32],
) {
    let stretches = Stretches::new(index.len().div_ceil(TILE), pool.threads());
    pool.run(|thread| {
        let mut work = Work::thread(threads, thread);
        while let Some(tiles) = stretches.take() {
            let rows = tiles.start * TILE..(tiles.end * TILE).min(index.len());
            let acts = inputs.acts(weights.ty(), &index[rows.clone()]);
            // SAFETY: threads have different activation rows.
            let mut out = unsafe { out.tile(rows, 0..weights.rows()) };
            kernels.matmul(&weights, &acts, &mut out, &mut work.kernels);
        }
    });
}
