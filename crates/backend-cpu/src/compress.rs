//! Staging of window rows and compressor inputs, and the rows that close (spec: model §4.4).

use backend::{
    Act, CompressorWeights, HostKv, PoolInput, Pooled, Result, RowLayout, SlotSpan, Step, kv_row,
};
use model::Rope;
use quant::dot::{Kernels, PoolEntry};

use crate::norm::inverse_rms;
use crate::parallel::{SharedRows, for_parts};
use crate::work::Work;
use crate::{Cpu, Floats, Parts};

/// Which compressor a call is for.
pub(crate) struct Target<'a> {
    pub(crate) layer: usize,
    pub(crate) pooled: Pooled,
    pub(crate) rope: &'a Rope,
}

pub(crate) fn stage_window(
    cpu: Parts<'_>,
    kv: &mut HostKv,
    layer: usize,
    rows: &Act<Floats>,
    step: &Step,
) {
    let layout = kv.layout().row;
    let works = &cpu.work.threads;
    let staged = kv.staged_window_all_mut(layer);
    let staged = SharedRows::new(staged);
    for_parts(cpu.pool, step.rows.len(), |thread, rows_of_thread| {
        let mut work = Work::thread(works, thread);
        for r in rows_of_thread {
            let row = &mut work.row[..layout.dim];
            row.copy_from_slice(&rows.buf[r * rows.cols..][..layout.dim]);
            // SAFETY: threads have different rows.
            let out = unsafe { staged.get(r * layout.bytes(), layout.bytes()) };
            kv_row::encode(&layout, row, out);
        }
    });
}

pub(crate) fn compress(
    cpu: Parts<'_>,
    kv: &mut HostKv,
    target: &Target<'_>,
    input: &PoolInput<Floats>,
    w: &CompressorWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let Target { layer, pooled, rope } = *target;
    let (bias, norm) = (w.position_bias.values()?, w.norm.values()?);
    let cols = input.kv.cols;
    for (r, row) in step.rows.iter().enumerate() {
        let bias = &bias[row.pos as usize % w.ratio * cols..][..cols];
        let (k, z) = kv.staged_open_mut(layer, pooled, r).split_at_mut(cols);
        k.copy_from_slice(&input.kv.buf[r * cols..][..cols]);
        for ((z, gate), bias) in z.iter_mut().zip(&input.gate.buf[r * cols..]).zip(bias) {
            *z = gate + bias;
        }
    }
    let (layout, eps) = (layout(kv, pooled), cpu.shape.config.rms_eps);
    let Parts { pool, kernels, work, .. } = cpu;
    let Work { threads: works, pooled: rows, closing, .. } = work;
    closing.clear();
    for (s, span) in step.spans.iter().enumerate() {
        let first = span.committed_rows(w.ratio);
        let closed = first..first + span.closed_rows(w.ratio);
        closing.extend(closed.map(|index| (s as u32, index as u32)));
    }
    let source = &*kv;
    let shared = SharedRows::new(rows);
    let closing = &*closing;
    for_parts(pool, closing.len(), |thread, part| {
        let mut work = Work::thread(works, thread);
        for i in part {
            let (span, index) = (&step.spans[closing[i].0 as usize], closing[i].1 as usize);
            // SAFETY: threads have different rows.
            let row = unsafe { shared.get(i * w.width, w.width) };
            let window = Window { kv: source, layer, pooled, span, ratio: w.ratio };
            window.pool(kernels, index, row, &mut work.channels);
            let scale = inverse_rms(kernels, row, eps);
            row.iter_mut().zip(&*norm).for_each(|(v, w)| *v = w * (*v * scale));
            // A row sits at the position of its window's first token.
            rope.rotate_tail(row, (index * w.ratio) as u32, false);
        }
    });
    for (row, &(span, index)) in rows.chunks_exact_mut(w.width).zip(closing) {
        let span = &step.spans[span as usize];
        let out = kv.staged_row_mut(layer, pooled, span, index as usize);
        kv_row::encode(&layout, row, out);
    }
    Ok(())
}

fn layout(kv: &HostKv, pooled: Pooled) -> RowLayout {
    match pooled {
        Pooled::Attention => kv.layout().row,
        Pooled::Index => kv.layout().index_row,
    }
}

/// Compressor inputs as one span sees them.
struct Window<'a> {
    kv: &'a HostKv,
    layer: usize,
    pooled: Pooled,
    span: &'a SlotSpan,
    ratio: usize,
}

impl Window<'_> {
    /// Softmax pooling, channel by channel, of the window that row `index` closes.
    fn pool(&self, kernels: Kernels, index: usize, out: &mut [f32], channels: &mut [f32]) {
        let width = out.len();
        let (max, sum) = channels[..2 * width].split_at_mut(width);
        max.fill(f32::NEG_INFINITY);
        self.each(index, width, |_, z| {
            max.iter_mut().zip(z).for_each(|(m, z)| *m = m.max(*z));
        });
        sum.fill(0.0);
        out.fill(0.0);
        self.each(index, width, |k, z| kernels.pool(&PoolEntry { k, z, max }, sum, out));
        out.iter_mut().zip(sum).for_each(|(v, s)| *v /= *s);
    }

    /// Calls `visit(k, z)` for every entry. At ratio 4 the previous window takes part with the first
    /// half of its channels.
    fn each(&self, index: usize, width: usize, mut visit: impl FnMut(&[f32], &[f32])) {
        let ratio = self.ratio;
        let cols = if ratio == 4 { 2 * width } else { width };
        let previous = if ratio == 4 && index > 0 { ratio } else { 0 };
        for pos in index * ratio - previous..(index + 1) * ratio {
            let offset = if pos < index * ratio { 0 } else { cols - width };
            let input = self.kv.open_input(self.layer, self.pooled, self.span, pos);
            visit(&input[offset..][..width], &input[cols + offset..][..width]);
        }
    }
}
