//! What a sequence's memory is made of: row formats, pages, rings and staging, as numbers.

use model::{Config, LayerKind};

/// Consecutive positions whose compressed rows make one page.
pub const PAGE_TOKENS: usize = 256;

/// How KV rows are held; also decides the numerics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowFormat {
    /// Plain f32, no rounding: `--numerics exact`.
    F32,
    /// As the model defines it: E4M3 with a power-of-two scale per 64 channels for the part
    /// without rotation, 16-bit floats for the rotated tail; index rows Hadamard-rotated, E2M1
    /// with a scale per 32 channels. The round trips are part of the model (spec: model §3, §4.3).
    Model,
    /// As `Model`, with the rotated tail left in f32. The tail's rounding is storage, not part of
    /// the model; without it, results can be compared with the model's definition closely.
    ModelWideTail,
}

impl RowFormat {
    /// Whether the model's FP8 and FP4 round trips happen.
    pub fn rounds(self) -> bool {
        self != Self::F32
    }

    /// Bytes of one value of the rotated tail.
    pub fn tail_bytes(self) -> usize {
        if self == Self::Model { 2 } else { 4 }
    }

    /// Short name, part of page names and saved sessions.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Model => "model",
            Self::ModelWideTail => "model-wide-tail",
        }
    }
}

/// Byte layout of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Channels.
    pub dim: usize,
    /// Channels at the tail that are rotated (0 for index rows: all of the row is rounded).
    pub rope_dim: usize,
    /// Format.
    pub format: RowFormat,
    /// Whether this is an index row.
    pub index: bool,
}

impl RowLayout {
    /// Channels that are stored as codes with scales.
    pub fn coded(&self) -> usize {
        if self.index { self.dim } else { self.dim - self.rope_dim }
    }

    /// Channels that share a scale.
    pub fn block(&self) -> usize {
        if self.index { 32 } else { 64 }
    }

    /// Bytes of the codes.
    pub fn code_bytes(&self) -> usize {
        if self.index { self.coded().div_ceil(2) } else { self.coded() }
    }

    /// Scales of a row.
    pub fn n_scales(&self) -> usize {
        self.coded().div_ceil(self.block())
    }

    /// Where the rotated tail begins in a rounded row: behind codes and scales, aligned.
    pub fn tail_offset(&self) -> usize {
        (self.code_bytes() + self.n_scales()).next_multiple_of(self.format.tail_bytes())
    }

    /// Bytes of one row, a multiple of 4.
    pub fn bytes(&self) -> usize {
        if !self.format.rounds() {
            return 4 * self.dim;
        }
        let tail = self.dim - self.coded();
        (self.tail_offset() + tail * self.format.tail_bytes()).next_multiple_of(4)
    }
}

/// KV of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerLayout {
    /// Which attention the layer has.
    pub kind: LayerKind,
}

/// Sizes of a device's whole KV store.
#[derive(Clone, Debug, PartialEq)]
pub struct KvLayout {
    /// Main layers, then the MTP block's when drafting is on.
    pub layers: Vec<LayerLayout>,
    /// Window, compressed and attention rows.
    pub row: RowLayout,
    /// Index rows.
    pub index_row: RowLayout,
    /// Positions in the sliding window.
    pub window: usize,
    /// Sequences held at once.
    pub n_slots: usize,
    /// Pages in the pool.
    pub n_pages: usize,
    /// Rows of the largest step.
    pub step_rows: usize,
}

impl KvLayout {
    /// The layout for a model.
    pub fn new(
        config: &Config,
        format: RowFormat,
        n_slots: usize,
        n_pages: usize,
        step_rows: usize,
        mtp: bool,
    ) -> Self {
        let mut layers: Vec<LayerLayout> =
            config.layers.iter().map(|&kind| LayerLayout { kind }).collect();
        if mtp {
            layers.push(LayerLayout { kind: LayerKind::SlidingWindow });
        }
        let (dim, rope_dim) = (config.head_dim, config.rope_dim);
        Self {
            layers,
            row: RowLayout { dim, rope_dim, format, index: false },
            index_row: RowLayout { dim: config.indexer.head_dim, rope_dim: 0, format, index: true },
            window: config.window,
            n_slots,
            n_pages,
            step_rows,
        }
    }

    /// Bytes of one page over all layers: what 256 positions add.
    pub fn page_bytes(&self) -> usize {
        self.layers.iter().map(|l| self.page_bytes_of(l.kind)).sum()
    }

    /// Bytes of one page in a layer of `kind`.
    pub fn page_bytes_of(&self, kind: LayerKind) -> usize {
        match kind {
            LayerKind::SlidingWindow => 0,
            LayerKind::Hca => PAGE_TOKENS / 128 * self.row.bytes(),
            LayerKind::Csa => PAGE_TOKENS / 4 * (self.row.bytes() + self.index_row.bytes()),
        }
    }

    /// f32 values that one position gives a compressor of `ratio`: k and z, both halves.
    pub fn open_len(width: usize, ratio: usize) -> usize {
        2 * width * if ratio == 4 { 2 } else { 1 }
    }

    /// Positions whose compressor inputs are kept: the open window, and the one before it for
    /// the overlapping ratio 4.
    pub fn open_positions(ratio: usize) -> usize {
        if ratio == 4 { 8 } else { ratio }
    }

    /// Bytes of the state that each slot has beside its pages.
    pub fn slot_bytes(&self) -> usize {
        let per_layer = |l: &LayerLayout| {
            let open = |width: usize, ratio: usize| {
                4 * Self::open_positions(ratio) * Self::open_len(width, ratio)
            };
            self.window * self.row.bytes()
                + match l.kind {
                    LayerKind::SlidingWindow => 0,
                    LayerKind::Hca => open(self.row.dim, 128),
                    LayerKind::Csa => open(self.row.dim, 4) + open(self.index_row.dim, 4),
                }
        };
        self.layers.iter().map(per_layer).sum()
    }

    /// Most rows that can close in one step at `ratio`.
    pub fn staged_rows(&self, ratio: usize) -> usize {
        self.step_rows / ratio + self.n_slots
    }

    /// Bytes of the staging area, shared by all slots.
    pub fn stage_bytes(&self) -> usize {
        let per_layer = |l: &LayerLayout| {
            let open =
                |width: usize, ratio: usize| 4 * self.step_rows * Self::open_len(width, ratio);
            self.step_rows * self.row.bytes()
                + match l.kind {
                    LayerKind::SlidingWindow => 0,
                    LayerKind::Hca => {
                        open(self.row.dim, 128) + self.staged_rows(128) * self.row.bytes()
                    }
                    LayerKind::Csa => {
                        open(self.row.dim, 4)
                            + open(self.index_row.dim, 4)
                            + self.staged_rows(4) * (self.row.bytes() + self.index_row.bytes())
                    }
                }
        };
        self.layers.iter().map(per_layer).sum()
    }

    /// Bytes of the whole store.
    pub fn total_bytes(&self) -> usize {
        self.n_pages * self.page_bytes() + self.n_slots * self.slot_bytes() + self.stage_bytes()
    }
}

/// The part of an anchor that one layer needs at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorView {
    /// Committed positions.
    pub len: usize,
}

impl AnchorView {
    /// Positions whose window rows are live.
    pub fn window(&self, window: usize) -> std::ops::Range<usize> {
        self.len.saturating_sub(window)..self.len
    }

    /// Positions of the previous window that the next close at `ratio` still reads (first halves
    /// only), and those of the open window.
    pub fn open(&self, ratio: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let open = self.len / ratio * ratio;
        let previous = if ratio == 4 { open.saturating_sub(4)..open } else { open..open };
        (previous, open..self.len)
    }

    /// Bytes of the anchor of one layer.
    pub fn bytes(&self, kind: LayerKind, layout: &KvLayout) -> usize {
        let open = |width: usize, ratio: usize| {
            let (previous, current) = self.open(ratio);
            let full = KvLayout::open_len(width, ratio);
            4 * (previous.len() * full / 2 + current.len() * full)
        };
        let pooled = match kind {
            LayerKind::SlidingWindow => 0,
            LayerKind::Hca => open(layout.row.dim, 128),
            LayerKind::Csa => open(layout.row.dim, 4) + open(layout.index_row.dim, 4),
        };
        self.window(layout.window).len() * layout.row.bytes() + pooled
    }
}
