//! Rows in and out: token embeddings into the streams, logit rows out of them.

use backend::{Act, Result, Step};

use crate::{Floats, Weight};

pub(crate) fn embed(streams: &mut Act<Floats>, table: &Weight, step: &Step) -> Result<()> {
    let hidden = table.tensor.cols;
    for (row, out) in step.rows.iter().zip(streams.buf.chunks_exact_mut(streams.cols)) {
        let (first, rest) = out.split_at_mut(hidden);
        table.row(row.token as usize, first)?;
        rest.chunks_exact_mut(hidden).for_each(|stream| stream.copy_from_slice(first));
    }
    Ok(())
}

pub(crate) fn gather_rows(out: &mut Act<Floats>, x: &Act<Floats>, step: &Step) {
    for (out, &row) in out.buf.chunks_exact_mut(x.cols).zip(&step.logit_rows) {
        out.copy_from_slice(&x.buf[row as usize * x.cols..][..x.cols]);
    }
}

/// Rows ascend, so that none is overwritten before it is moved.
pub(crate) fn keep_wanted(x: &mut Act<Floats>, step: &Step) {
    for (to, &row) in step.logit_rows.iter().enumerate() {
        let row = row as usize * x.cols;
        x.buf.copy_within(row..row + x.cols, to * x.cols);
    }
}
