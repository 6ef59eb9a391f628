//! Staging of window rows and compressor inputs, and the rows that close (spec: model §4.4).

use model::Rope;

use super::norm::inverse_rms;
use super::{Floats, Reference, Trace};
use crate::device::Act;
use crate::error::Result;
use crate::host_kv::HostKv;
use crate::kv_row;
use crate::ops::{PoolInput, Pooled};
use crate::step::{SlotSpan, Step};
use crate::weights::CompressorWeights;

/// What one call compresses for.
pub(super) struct Pool<'a> {
    pub(super) layer: usize,
    pub(super) pooled: Pooled,
    pub(super) rope: &'a Rope,
    pub(super) eps: f32,
}

pub(super) fn stage_window(kv: &mut HostKv, layer: usize, rows: &Act<Floats>, step: &Step) {
    let layout = kv.layout().row;
    for (r, row) in rows.buf.chunks_exact(rows.cols).take(step.rows.len()).enumerate() {
        kv_row::encode(&layout, &mut row.to_vec(), kv.staged_window_mut(layer, r));
    }
}

pub(super) fn compress(
    kv: &mut HostKv,
    pool: &Pool<'_>,
    input: &PoolInput<Floats>,
    w: &CompressorWeights<Reference>,
    step: &Step,
    trace: &mut Option<Trace>,
) -> Result<()> {
    let (bias, norm) = (w.position_bias.values()?, w.norm.values()?);
    let cols = input.kv.cols;
    for (r, row) in step.rows.iter().enumerate() {
        let bias = &bias[row.pos as usize % w.ratio * cols..][..cols];
        let staged = kv.staged_open_mut(pool.layer, pool.pooled, r);
        let (k, z) = staged.split_at_mut(cols);
        k.copy_from_slice(&input.kv.buf[r * cols..][..cols]);
        for ((z, gate), bias) in z.iter_mut().zip(&input.gate.buf[r * cols..]).zip(bias) {
            *z = gate + bias;
        }
    }
    let layout = match pool.pooled {
        Pooled::Attention => kv.layout().row,
        Pooled::Index => kv.layout().index_row,
    };
    for span in &step.spans {
        let first = span.committed_rows(w.ratio);
        for index in first..first + span.closed_rows(w.ratio) {
            let mut row = pool_row(kv, pool, span, index, w);
            let scale = inverse_rms(&row, pool.eps);
            row.iter_mut().zip(&norm).for_each(|(v, w)| *v = w * (*v * scale));
            // A row sits at the position of its window's first token.
            pool.rope.rotate_tail(&mut row, (index * w.ratio) as u32, false);
            kv_row::encode(
                &layout,
                &mut row,
                kv.staged_row_mut(pool.layer, pool.pooled, span, index),
            );
            note(kv, pool, span, index, w.ratio, trace);
        }
    }
    Ok(())
}

/// Softmax pooling, channel by channel, of the window that row `index` closes. At ratio 4 the
/// previous window takes part with the first half of its channels.
fn pool_row(
    kv: &HostKv,
    pool: &Pool<'_>,
    span: &SlotSpan,
    index: usize,
    w: &CompressorWeights<Reference>,
) -> Vec<f32> {
    let (ratio, width) = (w.ratio, w.width);
    let overlapping = ratio == 4;
    let cols = if overlapping { 2 * width } else { width };
    let current = index * ratio..(index + 1) * ratio;
    let previous = if overlapping && index > 0 { (index - 1) * ratio..index * ratio } else { 0..0 };
    let entries: Vec<(&[f32], &[f32])> = previous
        .map(|pos| (pos, 0))
        .chain(current.map(|pos| (pos, cols - width)))
        .map(|(pos, offset)| {
            let input = kv.open_input(pool.layer, pool.pooled, span, pos);
            (&input[offset..][..width], &input[cols + offset..][..width])
        })
        .collect();
    (0..width)
        .map(|i| {
            let max = entries.iter().map(|(_, z)| z[i]).fold(f32::NEG_INFINITY, f32::max);
            let (mut sum, mut weighted) = (0.0, 0.0);
            for (k, z) in &entries {
                let weight = (z[i] - max).exp();
                sum += weight;
                weighted += weight * k[i];
            }
            weighted / sum
        })
        .collect()
}

fn note(
    kv: &mut HostKv,
    pool: &Pool<'_>,
    span: &SlotSpan,
    index: usize,
    ratio: usize,
    trace: &mut Option<Trace>,
) {
    let Some(trace) = trace.as_mut().filter(|t| (t.pos + 1) as usize == (index + 1) * ratio) else {
        return;
    };
    let (layout, label) = match pool.pooled {
        Pooled::Attention => (kv.layout().row, "comp_row"),
        Pooled::Index => (kv.layout().index_row, "index_row"),
    };
    let mut row = vec![0.0; layout.dim];
    kv_row::decode(&layout, kv.staged_row_mut(pool.layer, pool.pooled, span, index), &mut row);
    trace.push(label, &row);
}
