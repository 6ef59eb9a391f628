//! The KV store of backends that compute in host memory: rings, pages, staging.
//!
//! Committed window rows live in a ring per slot, committed compressed rows in pages, raw
//! compressor inputs in a short ring per slot. A step writes only staging; `commit` moves the
//! accepted part. Nothing is allocated after [`HostKv::new`].

use std::ops::Range;

use model::LayerKind;

use crate::error::{Error, Result};
use crate::kv::{AnchorView, KvLayout, PAGE_TOKENS, RowLayout};
use crate::ops::Pooled;
use crate::step::{SlotSpan, Step};

/// KV of all layers and slots.
#[derive(Debug)]
pub struct HostKv {
    layout: KvLayout,
    layers: Vec<LayerKv>,
}

/// KV of one layer.
#[derive(Debug)]
pub struct LayerKv {
    kind: LayerKind,
    /// `[slots, window]` rows.
    ring: Vec<u8>,
    /// `[step_rows]` rows.
    staged: Vec<u8>,
    attention: Option<PooledKv>,
    index: Option<PooledKv>,
}

/// Rows that one compressor makes.
#[derive(Debug)]
struct PooledKv {
    ratio: usize,
    row: RowLayout,
    /// `[pages, PAGE_TOKENS / ratio]` rows.
    pages: Vec<u8>,
    /// Rows that closed in the current step, span after span.
    staged: Vec<u8>,
    /// `[slots, open positions]` of k | z.
    open: Vec<f32>,
    /// `[step_rows]` of k | z.
    staged_open: Vec<f32>,
}

/// The compressed rows that one span may read, resolved once per span.
#[derive(Clone, Copy, Debug)]
pub struct SpanRows<'a> {
    pages: &'a [u8],
    table: &'a [u32],
    staged: &'a [u8],
    per_page: usize,
    row_bytes: usize,
    committed: usize,
}

impl<'a> SpanRows<'a> {
    /// The bytes of compressed row `index`.
    pub fn row(&self, index: usize) -> &'a [u8] {
        let (store, at) = if index < self.committed {
            let page = self.table[index / self.per_page] as usize;
            (self.pages, page * self.per_page + index % self.per_page)
        } else {
            (self.staged, index - self.committed)
        };
        &store[at * self.row_bytes..][..self.row_bytes]
    }

    /// The longest run of rows that lie side by side from `index` on, at most up to `end`.
    pub fn run(&self, index: usize, end: usize) -> (&'a [u8], usize) {
        let n = if index < self.committed {
            (self.per_page - index % self.per_page).min(self.committed - index)
        } else {
            end - index
        }
        .min(end - index);
        let (store, at) = if index < self.committed {
            let page = self.table[index / self.per_page] as usize;
            (self.pages, page * self.per_page + index % self.per_page)
        } else {
            (self.staged, index - self.committed)
        };
        (&store[at * self.row_bytes..][..n * self.row_bytes], n)
    }
}

impl HostKv {
    /// Allocates the whole store, zeroed and written.
    ///
    /// # Errors
    /// The layout is larger than the address space.
    pub fn new(device: &'static str, layout: &KvLayout) -> Result<Self> {
        let bytes = layout.total_bytes();
        if isize::try_from(bytes).is_err() {
            return Err(Error::OutOfMemory { device, label: "KV", bytes: bytes as u64 });
        }
        let layers = layout.layers.iter().map(|l| LayerKv::new(l.kind, layout)).collect();
        Ok(Self { layout: layout.clone(), layers })
    }

    /// The sizes this store was made for.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// The staging row of window rows for step row `row`.
    pub fn staged_window_mut(&mut self, layer: usize, row: usize) -> &mut [u8] {
        let bytes = self.layout.row.bytes();
        &mut self.layers[layer].staged[row * bytes..][..bytes]
    }

    /// All staged window rows of a layer, for writing in parallel.
    pub fn staged_window_all_mut(&mut self, layer: usize) -> &mut [u8] {
        &mut self.layers[layer].staged
    }

    /// The window row at `pos` as `span` sees it: committed ring or staging.
    pub fn window_row(&self, layer: usize, span: &SlotSpan, pos: usize) -> &[u8] {
        let bytes = self.layout.row.bytes();
        let committed = span.committed as usize;
        let layer = &self.layers[layer];
        if pos < committed {
            let at = span.slot as usize * self.layout.window + pos % self.layout.window;
            &layer.ring[at * bytes..][..bytes]
        } else {
            let at = span.first_row as usize + pos - committed;
            &layer.staged[at * bytes..][..bytes]
        }
    }

    /// The compressed rows that `span` may read.
    ///
    /// # Panics
    /// When the layer has no such compressor.
    pub fn span_rows<'a>(
        &'a self,
        layer: usize,
        pooled: Pooled,
        span: &SlotSpan,
        step: &'a Step,
    ) -> SpanRows<'a> {
        let part = self.layers[layer].pooled(pooled);
        let row_bytes = part.row.bytes();
        SpanRows {
            pages: &part.pages,
            table: step.pages_of(span),
            staged: &part.staged[span.first_closed(part.ratio) * row_bytes..],
            per_page: PAGE_TOKENS / part.ratio,
            row_bytes,
            committed: span.committed_rows(part.ratio),
        }
    }

    /// Tokens per row of a compressor.
    pub fn ratio(&self, layer: usize, pooled: Pooled) -> usize {
        self.layers[layer].pooled(pooled).ratio
    }

    /// The staged compressor input k | z of step row `row`.
    pub fn staged_open_mut(&mut self, layer: usize, pooled: Pooled, row: usize) -> &mut [f32] {
        let part = self.layers[layer].pooled_mut(pooled);
        let len = KvLayout::open_len(part.row.dim, part.ratio);
        &mut part.staged_open[row * len..][..len]
    }

    /// The compressor input k | z at `pos` as `span` sees it.
    pub fn open_input(&self, layer: usize, pooled: Pooled, span: &SlotSpan, pos: usize) -> &[f32] {
        let part = self.layers[layer].pooled(pooled);
        let len = KvLayout::open_len(part.row.dim, part.ratio);
        let committed = span.committed as usize;
        if pos < committed {
            let n = KvLayout::open_positions(part.ratio);
            &part.open[(span.slot as usize * n + pos % n) * len..][..len]
        } else {
            &part.staged_open[(span.first_row as usize + pos - committed) * len..][..len]
        }
    }

    /// The staging place of compressed row `index`, which closes in this step.
    pub fn staged_row_mut(
        &mut self,
        layer: usize,
        pooled: Pooled,
        span: &SlotSpan,
        index: usize,
    ) -> &mut [u8] {
        let part = self.layers[layer].pooled_mut(pooled);
        let bytes = part.row.bytes();
        let at = span.first_closed(part.ratio) + index - span.committed_rows(part.ratio);
        &mut part.staged[at * bytes..][..bytes]
    }

    /// Appends the first `accepted[i]` rows of span `i` in `layers`.
    pub fn commit(&mut self, step: &Step, layers: Range<usize>, accepted: &[u32]) {
        let (layers, layout) = self.layers_mut(layers);
        layers.iter_mut().for_each(|layer| layer.commit(layout, step, accepted));
    }

    /// Some layers and the sizes of all, to commit to each where it suits.
    pub fn layers_mut(&mut self, layers: Range<usize>) -> (&mut [LayerKv], &KvLayout) {
        (&mut self.layers[layers], &self.layout)
    }

    /// Copies page `from` over page `to` in every layer.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        for part in self.parts_mut() {
            let bytes = part.page_bytes();
            let from = from as usize * bytes;
            part.pages.copy_within(from..from + bytes, to as usize * bytes);
        }
    }

    /// Appends a page's bytes, layer by layer.
    pub fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        for part in self.layers.iter().flat_map(LayerKv::parts) {
            let bytes = part.page_bytes();
            out.extend_from_slice(&part.pages[page as usize * bytes..][..bytes]);
        }
    }

    /// Overwrites a page.
    ///
    /// # Errors
    /// `bytes` is not one page long.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        check_len("a page", self.layout.page_bytes(), bytes.len())?;
        let mut rest = bytes;
        for part in self.parts_mut() {
            let len = part.page_bytes();
            let (head, tail) = rest.split_at(len);
            part.pages[page as usize * len..][..len].copy_from_slice(head);
            rest = tail;
        }
        Ok(())
    }

    /// Appends what resuming at `lens[layer]` positions needs beside pages.
    pub fn read_anchor(&self, slot: u32, lens: &[usize], out: &mut Vec<u8>) {
        let bytes = self.layout.row.bytes();
        for (layer, &len) in self.layers.iter().zip(lens) {
            let view = AnchorView { len };
            for pos in view.window(self.layout.window) {
                let at = slot as usize * self.layout.window + pos % self.layout.window;
                out.extend_from_slice(&layer.ring[at * bytes..][..bytes]);
            }
            for part in layer.parts() {
                part.for_each_open(slot, view, |range| extend(out, &part.open[range]));
            }
        }
    }

    /// Restores a slot.
    ///
    /// # Errors
    /// `bytes` has another length than an anchor at `lens` has.
    pub fn write_anchor(&mut self, slot: u32, lens: &[usize], bytes: &[u8]) -> Result<()> {
        check_len("an anchor", self.anchor_bytes(lens), bytes.len())?;
        let row_bytes = self.layout.row.bytes();
        let window = self.layout.window;
        let mut rest = bytes;
        for (layer, &len) in self.layers.iter_mut().zip(lens) {
            let view = AnchorView { len };
            for pos in view.window(window) {
                let at = slot as usize * window + pos % window;
                let (head, tail) = rest.split_at(row_bytes);
                layer.ring[at * row_bytes..][..row_bytes].copy_from_slice(head);
                rest = tail;
            }
            for part in [&mut layer.attention, &mut layer.index].into_iter().flatten() {
                let mut ranges = Vec::new();
                part.for_each_open(slot, view, |range| ranges.push(range));
                for range in ranges {
                    let (head, tail) = rest.split_at(4 * range.len());
                    for (v, b) in part.open[range].iter_mut().zip(head.chunks_exact(4)) {
                        *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    }
                    rest = tail;
                }
            }
        }
        Ok(())
    }

    fn anchor_bytes(&self, lens: &[usize]) -> usize {
        let bytes = |(l, &len): (&LayerKv, &usize)| AnchorView { len }.bytes(l.kind, &self.layout);
        self.layers.iter().zip(lens).map(bytes).sum()
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut PooledKv> {
        self.layers
            .iter_mut()
            .flat_map(|l| [l.attention.as_mut(), l.index.as_mut()].into_iter().flatten())
    }
}

/// Appends numbers, little-endian.
fn extend(out: &mut Vec<u8>, values: &[f32]) {
    let start = out.len();
    out.resize(start + 4 * values.len(), 0);
    let places = out[start..].as_chunks_mut::<4>().0;
    places.iter_mut().zip(values).for_each(|(place, v)| *place = v.to_le_bytes());
}

fn check_len(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::State {
        expected: format!("{what} of {expected} bytes"),
        found: format!("{found} bytes"),
    })
}

impl LayerKv {
    fn new(kind: LayerKind, layout: &KvLayout) -> Self {
        let bytes = layout.row.bytes();
        let pooled = |row: RowLayout| kind.ratio().map(|ratio| PooledKv::new(ratio, row, layout));
        Self {
            kind,
            ring: taken(layout.n_slots * layout.window * bytes),
            staged: taken(layout.step_rows * bytes),
            attention: pooled(layout.row),
            index: if kind == LayerKind::Csa { pooled(layout.index_row) } else { None },
        }
    }

    /// Appends the first `accepted[i]` rows of span `i`.
    pub fn commit(&mut self, layout: &KvLayout, step: &Step, accepted: &[u32]) {
        for (span, &n) in step.spans.iter().zip(accepted) {
            let n = n.min(span.n_rows) as usize;
            self.commit_window(span, n, layout.window, layout.row.bytes());
            for part in [&mut self.attention, &mut self.index].into_iter().flatten() {
                part.commit(span, n, step.pages_of(span));
            }
        }
    }

    fn parts(&self) -> impl Iterator<Item = &PooledKv> {
        [self.attention.as_ref(), self.index.as_ref()].into_iter().flatten()
    }

    fn pooled(&self, pooled: Pooled) -> &PooledKv {
        let part = match pooled {
            Pooled::Attention => self.attention.as_ref(),
            Pooled::Index => self.index.as_ref(),
        };
        part.unwrap_or_else(|| panic!("a {} layer has no such rows", self.kind.name()))
    }

    fn pooled_mut(&mut self, pooled: Pooled) -> &mut PooledKv {
        let kind = self.kind;
        let part = match pooled {
            Pooled::Attention => self.attention.as_mut(),
            Pooled::Index => self.index.as_mut(),
        };
        part.unwrap_or_else(|| panic!("a {} layer has no such rows", kind.name()))
    }

    /// Only the last `window` accepted rows survive; earlier ones would be overwritten.
    fn commit_window(&mut self, span: &SlotSpan, n: usize, window: usize, bytes: usize) {
        for i in n.saturating_sub(window)..n {
            let pos = span.committed as usize + i;
            let to = (span.slot as usize * window + pos % window) * bytes;
            let from = (span.first_row as usize + i) * bytes;
            self.ring[to..to + bytes].copy_from_slice(&self.staged[from..from + bytes]);
        }
    }
}

/// Zeros that are there: the system gives memory when it is first written, and a store that grew
/// with every conversation could run out of it in the middle of one. A first prompt does not wait for it either.
pub fn taken<T: Copy + Default>(n: usize) -> Vec<T> {
    const SYSTEM_PAGE: usize = 4096;
    let mut values = vec![T::default(); n];
    for part in values.chunks_mut(SYSTEM_PAGE / size_of::<T>()) {
        // Writing zero over zero would otherwise be left out.
        *std::hint::black_box(&mut part[0]) = T::default();
    }
    values
}

impl PooledKv {
    fn new(ratio: usize, row: RowLayout, layout: &KvLayout) -> Self {
        let open = KvLayout::open_len(row.dim, ratio);
        Self {
            ratio,
            row,
            pages: taken(layout.n_pages * (PAGE_TOKENS / ratio) * row.bytes()),
            staged: taken(layout.staged_rows(ratio) * row.bytes()),
            open: taken(layout.n_slots * KvLayout::open_positions(ratio) * open),
            staged_open: taken(layout.step_rows * open),
        }
    }

    fn page_bytes(&self) -> usize {
        PAGE_TOKENS / self.ratio * self.row.bytes()
    }

    fn commit(&mut self, span: &SlotSpan, n: usize, table: &[u32]) {
        let len = KvLayout::open_len(self.row.dim, self.ratio);
        let n_open = KvLayout::open_positions(self.ratio);
        let committed = span.committed as usize;
        for i in n.saturating_sub(n_open)..n {
            let to = (span.slot as usize * n_open + (committed + i) % n_open) * len;
            let from = (span.first_row as usize + i) * len;
            self.open[to..to + len].copy_from_slice(&self.staged_open[from..from + len]);
        }
        let bytes = self.row.bytes();
        let per_page = PAGE_TOKENS / self.ratio;
        let first = span.committed_rows(self.ratio);
        for row in first..(committed + n) / self.ratio {
            let page = table[row / per_page] as usize;
            let to = (page * per_page + row % per_page) * bytes;
            let from = (span.first_closed(self.ratio) + row - first) * bytes;
            self.pages[to..to + bytes].copy_from_slice(&self.staged[from..from + bytes]);
        }
    }

    /// The parts of the open ring that an anchor holds: of the previous window only the first
    /// halves of k and z, of the open one everything.
    fn for_each_open(&self, slot: u32, view: AnchorView, mut visit: impl FnMut(Range<usize>)) {
        let len = KvLayout::open_len(self.row.dim, self.ratio);
        let n = KvLayout::open_positions(self.ratio);
        let at = |pos: usize| (slot as usize * n + pos % n) * len;
        let (previous, current) = view.open(self.ratio);
        for pos in previous {
            let start = at(pos);
            visit(start..start + self.row.dim);
            visit(start + len / 2..start + len / 2 + self.row.dim);
        }
        for pos in current {
            visit(at(pos)..at(pos) + len);
        }
    }
}
