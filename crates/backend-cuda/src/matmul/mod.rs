//! Products: weight layouts, uploads, and the launches of the kernels that read them.
//!
//! Rows that are few go through kernels that read every weight once (`gemv`, `experts`), or once for four pairs of a
//! row and an expert (`few`), more through kernels that keep the tensor cores busy (`gemm`, `wide`, `sorted`). A row's
//! bits are the same in every batch of the same kind; a row alone has kernels of its own (`cuda/matmul/one.cuh`)
//! where there are rings.

mod experts;
mod experts_one;
mod few;
mod gemm;
mod gemv;
mod one;
mod ring;
mod round;
mod sorted;
mod weights;
mod wide;
mod workspace;

use backend::{Act, Error, Result};

use crate::gpu::{Buffer, DevicePtr, Gpu, Kernel, Launch, NAME};
use crate::hyper_connection::NextArgs;
pub(crate) use experts::{mixture, routed_experts};
pub(crate) use weights::CHUNK_ROWS;
use weights::MatrixArgs;
pub(crate) use weights::matrix_bytes;
pub use weights::{Matrix, rounds};
pub(crate) use wide::{Turn, halves_of_heads, has as has_wide, out_of_heads, turned_out};
pub(crate) use workspace::{Records, Workspace};

/// Columns of a chunk (`cuda/matmul/layout.cuh`).
pub(crate) const CHUNK_COLS: usize = 256;
/// Rows that the kernels for few rows take.
const FEW_ROWS: usize = 8;
/// Beyond these, weights that are read once for all rows repay their way through shared memory.
const MANY_ROWS: usize = 32;
/// The same where a warp keeps the activations of its columns (`cuda/matmul/gemv_few.cu`).
const MANY_KEPT_ROWS: usize = 64;

/// `out[r] = w · x[r]` for the first `n_rows` rows.
pub(crate) fn matmul(
    gpu: &Gpu,
    ws: &Workspace,
    out: &Act<Buffer>,
    x: &Act<Buffer>,
    w: &Matrix,
    n_rows: usize,
) -> Result<()> {
    gemv::products(gpu, ws, x, &[(out, w)], 1, n_rows)
}

/// The two products that end one row's attention, the first in `n_groups` groups: its results are `low` and, rounded,
/// `records`; those of the second go into the streams on the way to the site `next`. Where no kernels do that nothing is
/// done, and the answer is false.
pub(crate) fn out_of_heads_next(
    gpu: &Gpu,
    ws: &Workspace,
    low: (&Act<Buffer>, &Buffer),
    heads: &Act<Buffer>,
    weights: (&Matrix, &Matrix),
    n_groups: usize,
    next: &NextArgs,
) -> Result<bool> {
    one::products_next(gpu, ws, low, heads, weights, n_groups, next)
}

/// Bytes of the records of a row of so many values, with a scale for every 32.
pub(crate) fn record_bytes(cols: usize) -> usize {
    cols.div_ceil(CHUNK_COLS) * workspace::RECORD_32
}

/// Rows of `w` in `n_groups` equal parts, each applied to its own slice of `x[r]`.
pub(crate) fn grouped_matmul(
    gpu: &Gpu,
    ws: &Workspace,
    out: &Act<Buffer>,
    x: &Act<Buffer>,
    w: &Matrix,
    n_groups: usize,
    n_rows: usize,
) -> Result<()> {
    gemv::products(gpu, ws, x, &[(out, w)], n_groups, n_rows)
}

/// Products of several matrices with the same activations.
pub(crate) fn matmul_many(
    gpu: &Gpu,
    ws: &Workspace,
    x: &Act<Buffer>,
    jobs: &[(&Act<Buffer>, &Matrix)],
    n_rows: usize,
) -> Result<()> {
    gemv::products(gpu, ws, x, jobs, 1, n_rows)
}

const EMBED: Kernel = Kernel::new("matmul/embed", "embed_rows");

#[repr(C)]
#[derive(Clone, Copy)]
struct EmbedArgs {
    w: DevicePtr,
    tokens: DevicePtr,
    grid: DevicePtr,
    out: DevicePtr,
    layout: u32,
    rows: u32,
    cols: u32,
    n_rows: u32,
    n_streams: u32,
    unused: u32,
}

// SAFETY: `repr(C)`, as in `embed.cu`, and the last field fills the padding.
unsafe impl crate::gpu::Args for EmbedArgs {}

/// Every one of `n_streams` parts of row `r` of `out` becomes row `tokens[r]` of `table`.
pub(crate) fn embed_rows(
    gpu: &Gpu,
    ws: &Workspace,
    out: &Act<Buffer>,
    table: &Matrix,
    tokens: DevicePtr,
    n_rows: usize,
    n_streams: usize,
) -> Result<()> {
    assert_eq!(out.cols, table.cols() * n_streams, "{}: width of {}", out.label, table.name());
    let MatrixArgs { w, layout, rows, cols, .. } = table.args();
    let args = EmbedArgs {
        w,
        tokens,
        grid: ws.grid(),
        out: out.buf.ptr(),
        layout,
        rows,
        cols,
        n_rows: n_rows as u32,
        n_streams: n_streams as u32,
        unused: 0,
    };
    // A thread has eight columns.
    let threads = n_rows * table.cols().div_ceil(CHUNK_COLS) * (CHUNK_COLS / 8);
    gpu.launch(&EMBED, Launch::new(threads.div_ceil(64), 64), &args)
}

/// An operation that the kernels cannot do.
fn unsupported(what: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::Unsupported {
        device: NAME,
        what: what.to_owned(),
        expected: expected.into(),
        found: found.into(),
    }
}
