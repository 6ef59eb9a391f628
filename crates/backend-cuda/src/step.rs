//! The step in device memory. `cuda/step.cuh` reads this layout.

use backend::{Result, Shape, Step};

use crate::FEW_ROWS;
use crate::gpu::{Buffer, DevicePtr, Gpu, StepKey};

/// Words before the tokens.
const HEADER: usize = 8;
/// Words of a row.
const ROW: usize = 12;
/// Steps with more rows of one slot read a prompt: each has another shape, and few come again.
const RECORDED_SPAN_MAX: usize = 4;
/// Contexts up to this one share recordings.
const CONTEXT_MIN: u32 = 1024;

/// The mirror of the current step.
pub(crate) struct Mirror {
    buffer: Buffer,
    /// What lies there, and the next step while it is laid out.
    words: Vec<u32>,
    next: Vec<u32>,
    context: u32,
    span_rows_max: usize,
}

fn words(shape: &Shape) -> usize {
    let limits = &shape.limits;
    let pages = limits.n_slots * limits.context.div_ceil(backend::PAGE_TOKENS);
    HEADER + limits.step_rows * (ROW + 1) + 2 * limits.n_slots + limits.logit_rows + pages
}

impl Mirror {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        4 * words(shape)
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let n = words(shape);
        let buffer = gpu.alloc("step", 4 * n)?;
        let words = || Vec::with_capacity(n);
        Ok(Self { buffer, words: words(), next: words(), context: 0, span_rows_max: 0 })
    }

    /// Where kernels find it.
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.buffer.ptr()
    }

    /// Where the rows' tokens lie, one after another.
    pub(crate) fn tokens(&self) -> DevicePtr {
        self.buffer.ptr().add(4 * HEADER)
    }

    /// The longest context of the step's rows, rounded up to a power of two: grids depend on it, so
    /// that steps with the same value can share a recording.
    pub(crate) fn context(&self) -> usize {
        self.context as usize
    }

    /// Rows of the longest span.
    pub(crate) fn span_rows_max(&self) -> usize {
        self.span_rows_max
    }

    /// Copies the step to the device. The key under which its launches may be recorded, if any.
    pub(crate) fn write(&mut self, gpu: &Gpu, step: &Step) -> Result<Option<StepKey>> {
        let longest = step.rows.iter().map(|row| row.pos + 1).max().unwrap_or(0);
        let context = longest.max(CONTEXT_MIN).next_power_of_two();
        self.context = context;
        self.span_rows_max = step.spans.iter().map(|s| s.n_rows as usize).max().unwrap_or(0);
        self.fill(step);
        if self.next != self.words {
            gpu.upload(&self.buffer, 0, bytemuck::cast_slice(&self.next))?;
            std::mem::swap(&mut self.words, &mut self.next);
        }
        let recorded = step.rows.len() <= FEW_ROWS && self.span_rows_max <= RECORDED_SPAN_MAX;
        Ok(recorded.then_some(StepKey {
            rows: step.rows.len() as u32,
            spans: step.spans.len() as u32,
            span_rows_max: self.span_rows_max as u32,
            logits: step.logit_rows.len() as u32,
            context,
        }))
    }

    fn fill(&mut self, step: &Step) {
        let (n_rows, n_spans) = (step.rows.len(), step.spans.len());
        let rows = HEADER + n_rows;
        let spans = rows + ROW * n_rows;
        let logits = spans + n_spans;
        let pages = logits + step.logit_rows.len();
        let header = [n_rows, n_spans, step.logit_rows.len(), rows, spans, logits, pages, 0]
            .map(|w| w as u32);
        let words = &mut self.next;
        words.clear();
        words.extend(header);
        words.extend(step.rows.iter().map(|row| row.token));
        for row in &step.rows {
            let span = &step.spans[row.span as usize];
            words.extend([row.pos, row.token, row.span, span.slot]);
            words.extend([span.committed, span.first_row, span.n_rows, span.first_page]);
            words.extend([span.first_closed_csa, span.first_closed_hca, 0, 0]);
        }
        words.extend(step.spans.iter().map(|span| span.first_row));
        words.extend(&step.logit_rows);
        words.extend(&step.pages);
    }
}
