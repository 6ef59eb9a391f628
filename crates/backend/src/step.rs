//! Which tokens a call computes, and where: the one source of ids and positions.

/// One row of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRow {
    /// Index into [`Step::spans`].
    pub span: u32,
    /// Position of the token in its sequence, from 0.
    pub pos: u32,
    /// Token id.
    pub token: u32,
}

/// The consecutive rows of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpan {
    /// Which slot's KV the rows read and extend.
    pub slot: u32,
    /// First row of the span.
    pub first_row: u32,
    /// Rows in the span; their positions are `committed..committed + n_rows`.
    pub n_rows: u32,
    /// Positions of the slot that are committed before this step.
    pub committed: u32,
    /// First entry of the slot's page table in [`Step::pages`].
    pub first_page: u32,
    /// Entries of the slot's page table.
    pub n_pages: u32,
    /// First staged row among all rows that close at ratio 4 in this step.
    pub first_closed_csa: u32,
    /// First staged row among all rows that close at ratio 128 in this step.
    pub first_closed_hca: u32,
}

impl SlotSpan {
    /// Compressed rows of `ratio` that exist before this step.
    pub fn committed_rows(&self, ratio: usize) -> usize {
        self.committed as usize / ratio
    }

    /// Compressed rows of `ratio` that close within this step.
    pub fn closed_rows(&self, ratio: usize) -> usize {
        (self.committed + self.n_rows) as usize / ratio - self.committed_rows(ratio)
    }

    /// First staged row of this span at `ratio`.
    pub fn first_closed(&self, ratio: usize) -> usize {
        (if ratio == 4 { self.first_closed_csa } else { self.first_closed_hca }) as usize
    }
}

/// How many rows an operation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Every row of the step.
    Rows,
    /// The rows that want logits, gathered.
    Logits,
    /// Each residual stream of every row as a row of its own.
    Streams(usize),
}

/// A ragged batch. Its vectors are allocated once, to the capacity given at the start.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Rows sorted by slot, positions ascending within a slot.
    pub rows: Vec<StepRow>,
    /// One entry per slot that has rows.
    pub spans: Vec<SlotSpan>,
    /// Page tables of the spans, one after another.
    pub pages: Vec<u32>,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
}

impl Step {
    /// An empty step that can be filled without allocating.
    pub fn with_capacity(rows: usize, spans: usize, pages: usize, logits: usize) -> Self {
        Self {
            rows: Vec::with_capacity(rows),
            spans: Vec::with_capacity(spans),
            pages: Vec::with_capacity(pages),
            logit_rows: Vec::with_capacity(logits),
        }
    }

    /// Empties the step and keeps its memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.spans.clear();
        self.pages.clear();
        self.logit_rows.clear();
    }

    /// Appends the next tokens of `slot`, whose `committed` positions lie in `pages`.
    ///
    /// # Panics
    /// When the slot already has a span: a step holds each slot once.
    pub fn push_span(&mut self, slot: u32, committed: u32, tokens: &[u32], pages: &[u32]) {
        assert!(self.spans.iter().all(|s| s.slot != slot), "a step holds each slot once");
        let closed =
            |ratio| -> u32 { self.spans.iter().map(|s| s.closed_rows(ratio) as u32).sum() };
        let span = SlotSpan {
            slot,
            first_row: self.rows.len() as u32,
            n_rows: tokens.len() as u32,
            committed,
            first_page: self.pages.len() as u32,
            n_pages: pages.len() as u32,
            first_closed_csa: closed(4),
            first_closed_hca: closed(128),
        };
        let index = self.spans.len() as u32;
        self.spans.push(span);
        self.pages.extend_from_slice(pages);
        let row = |(i, &token)| StepRow { span: index, pos: committed + i as u32, token };
        self.rows.extend(tokens.iter().enumerate().map(row));
    }

    /// Makes this the rows of `whole` that want logits. They read what `whole` has staged, so spans, pages and what
    /// is found by them stay those of `whole`: spans no longer say which rows there are. Allocates nothing while
    /// the capacity lasts.
    pub fn keep_wanted(&mut self, whole: &Self) {
        self.clear();
        self.rows.extend(whole.logit_rows.iter().map(|&row| whole.rows[row as usize]));
        self.spans.extend_from_slice(&whole.spans);
        self.pages.extend_from_slice(&whole.pages);
        self.logit_rows.extend(0..whole.logit_rows.len() as u32);
    }

    /// Rows covered by `count`.
    pub fn count(&self, count: Count) -> usize {
        match count {
            Count::Rows => self.rows.len(),
            Count::Logits => self.logit_rows.len(),
            Count::Streams(n) => n * self.rows.len(),
        }
    }

    /// The span a row belongs to.
    pub fn span_of(&self, row: usize) -> &SlotSpan {
        &self.spans[self.rows[row].span as usize]
    }

    /// The page table of a span.
    pub fn pages_of(&self, span: &SlotSpan) -> &[u32] {
        &self.pages[span.first_page as usize..(span.first_page + span.n_pages) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_rows_keep_their_positions_and_spans() {
        let mut whole = Step::default();
        whole.push_span(3, 8, &[10, 11, 12], &[5]);
        whole.push_span(1, 0, &[20, 21], &[]);
        whole.logit_rows.extend([2, 3]);
        let mut wanted = Step::default();
        wanted.keep_wanted(&whole);
        wanted.keep_wanted(&whole);
        let rows = [(0, 10, 12), (1, 0, 20)].map(|(span, pos, token)| StepRow { span, pos, token });
        assert_eq!((&wanted.rows[..], &wanted.logit_rows[..]), (&rows[..], &[0, 1][..]));
        assert_eq!(wanted.span_of(1), whole.span_of(3));
        assert_eq!(wanted.pages_of(wanted.span_of(0)), [5]);
    }
}
