//! Several products of one input in one region: it is rounded once, and each thread takes one stretch of all weight
//! rows in turn.

use std::ops::Range;

use backend::Act;
use quant::TensorType;
use quant::dot::{Out, Weights};

use crate::parallel::{Inputs, PANEL, Stretches, is_many, panels, rows_in, unit};
use crate::work::Work;
use crate::{Floats, Parts, Weight};

/// Products of one input at most: those of the input of an attention with an indexer.
const MOST: usize = 7;

/// Where one product goes, and its weights.
struct Product<'a> {
    out: Out<'a>,
    weights: Weights<'a>,
    unit: usize,
    /// What stands before it in the list of all weight rows, in bytes.
    first: usize,
}

impl Product<'_> {
    /// The weight rows that lie in `taken` of the list.
    fn rows(&self, taken: &Range<usize>) -> Range<usize> {
        rows_in(taken, self.first, (self.weights.rows(), self.weights.row_bytes()), self.unit)
    }
}

/// `out[r] = w · x[r]` for every pair of output and weights, of which there may be [`MOST`].
pub(crate) fn of_one_input<const N: usize>(
    cpu: Parts<'_>,
    x: &Act<Floats>,
    products: [Option<(&mut Act<Floats>, &Weight)>; N],
    n_rows: usize,
) {
    const { assert!(N <= MOST) };
    if n_rows == 0 {
        return;
    }
    let Parts { pool, kernels, work, .. } = cpu;
    let Work { threads, rounded, shares, index, .. } = work;
    let n_threads = pool.threads();
    let (mut types, mut bytes) = ([TensorType::F32; MOST], 0);
    let mut i = 0;
    let products = products.map(|product| {
        let (out, w) = product?;
        let weights = w.matrix(0);
        let (rows, name) = (weights.rows(), &w.tensor.name);
        assert_eq!(out.cols, rows, "{}: outputs of {name}", out.label);
        assert_eq!(x.cols, weights.cols(), "{}: inputs of {name}", x.label);
        let first = bytes;
        (types[i], i) = (weights.ty(), i + 1);
        bytes += rows * weights.row_bytes();
        let out = Out::new(&mut out.buf, n_rows, rows, rows);
        Some(Product { out, weights, unit: unit(rows, n_rows, n_threads), first })
    });
    let mut inputs = Inputs { values: &x.buf[..n_rows * x.cols], cols: x.cols, rounded };
    inputs.round(pool, kernels, &types[..i]);
    index.clear();
    index.extend(0..n_rows as u32);
    let (inputs, index, products) = (&inputs, &*index, &products);
    let n_panels = |product: &Product<'_>| product.weights.rows().div_ceil(PANEL);
    let all_panels = products.iter().flatten().map(n_panels).sum();
    let stretches = Stretches::new(all_panels, n_threads);
    let shares = shares.of(bytes);
    pool.run(|thread| {
        let mut work = Work::thread(threads, thread);
        let mut multiply = |product: &Product<'_>, range: Range<usize>| {
            let weights = product.weights.slice(range.start, range.end);
            let acts = inputs.acts(weights.ty(), index);
            // SAFETY: threads have different ranges of weight rows, which are columns here.
            let mut out = unsafe { product.out.tile(0..n_rows, range) };
            kernels.matmul(&weights, &acts, &mut out, &mut work.kernels);
        };
        if is_many(n_rows) {
            while let Some(units) = stretches.take() {
                let mut first = 0;
                for product in products.iter().flatten() {
                    multiply(product, panels(&units, first, product.weights.rows()));
                    first += n_panels(product);
                }
            }
        } else {
            while let Some(taken) = shares.take(thread) {
                products.iter().flatten().for_each(|p| multiply(p, p.rows(&taken)));
            }
        }
    });
}
