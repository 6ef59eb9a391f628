//! The KV store in device memory: rings, pages and staging, as `backend::HostKv` has them, and the
//! same bytes outside.

use std::ops::Range;

use backend::{AnchorView, Error, KvLayout, PAGE_TOKENS, Pooled, Result, RowLayout, Step};
use model::LayerKind;

use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch, NAME};
use crate::step::Mirror;

const COMMIT: Kernel = Kernel::new("kv", "commit");
/// Parts of the store begin at multiples of this, in bytes.
const ALIGNMENT: usize = 256;
/// Blocks that share the rows of a layer and span in a commit, at most, for each of so many kinds of rows.
const COMMIT_BLOCKS: usize = 32;
const COMMIT_KINDS: usize = 5;

/// Window rows of one layer: `WindowRows` of `cuda/kv_row.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WindowRows {
    pub(crate) ring: DevicePtr,
    pub(crate) staged: DevicePtr,
    pub(crate) window: u32,
    pub(crate) pad: u32,
}

/// Rows of one compressor: `PooledRows` of `cuda/kv_row.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PooledRows {
    pages: DevicePtr,
    staged: DevicePtr,
    open: DevicePtr,
    staged_open: DevicePtr,
    ratio: u32,
    per_page: u32,
    n_open: u32,
    open_len: u32,
}

/// How a row is stored: `RowFormat` of `cuda/kv_row.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowFormat {
    pub(crate) dim: u32,
    coded: u32,
    pub(crate) bytes: u32,
    code_bytes: u32,
    tail_offset: u32,
    format: u32,
    index: u32,
    pad: u32,
}

impl RowFormat {
    fn new(row: &RowLayout) -> Self {
        let format = match row.format {
            backend::RowFormat::F32 => 0,
            backend::RowFormat::Model => 1,
            backend::RowFormat::ModelWideTail => 2,
        };
        Self {
            dim: row.dim as u32,
            coded: row.coded() as u32,
            bytes: row.bytes() as u32,
            code_bytes: row.code_bytes() as u32,
            tail_offset: row.tail_offset() as u32,
            format,
            index: u32::from(row.index),
            pad: 0,
        }
    }

    /// Whether rows of `dim` channels are codes and f16 in pieces of 64 channels at multiples of 8 bytes.
    pub(crate) fn is_pieces(&self, dim: u32) -> bool {
        let places = [self.bytes, self.tail_offset, self.code_bytes];
        self.format == 1
            && self.index == 0
            && self.dim == dim
            && self.coded + 64 == dim
            && places.iter().all(|n| n.is_multiple_of(8))
    }
}

/// `LayerRows` of `cuda/kv.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LayerRows {
    window: WindowRows,
    attention: PooledRows,
    index: PooledRows,
    index_bytes: u32,
    pad: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CommitArgs {
    layers: DevicePtr,
    accepted: DevicePtr,
    step: DevicePtr,
    first_layer: u32,
    row_bytes: u32,
}

// SAFETY: the struct of cuda/kv.cu, without padding.
unsafe impl Args for CommitArgs {}

struct Layer {
    kind: LayerKind,
    window: WindowRows,
    attention: Option<PooledRows>,
    index: Option<PooledRows>,
}

/// KV of all layers and slots.
pub struct Kv {
    layout: KvLayout,
    layers: Vec<Layer>,
    /// What the layers point into.
    _memory: Buffer,
    /// `LayerRows` of every layer.
    table: Buffer,
    accepted: Buffer,
}

/// Gives out parts of one allocation; with no base, only counts.
struct Carver {
    base: DevicePtr,
    at: usize,
}

impl Carver {
    fn take(&mut self, bytes: usize) -> DevicePtr {
        let ptr = self.base.add(self.at);
        self.at += bytes.next_multiple_of(ALIGNMENT);
        ptr
    }

    fn layer(&mut self, kind: LayerKind, layout: &KvLayout) -> Layer {
        let bytes = layout.row.bytes();
        let window = WindowRows {
            ring: self.take(layout.n_slots * layout.window * bytes),
            staged: self.take(layout.step_rows * bytes),
            window: layout.window as u32,
            pad: 0,
        };
        let attention = kind.ratio().map(|ratio| self.pooled(ratio, &layout.row, layout));
        let has_index = kind == LayerKind::Csa;
        let index = has_index.then(|| self.pooled(4, &layout.index_row, layout));
        Layer { kind, window, attention, index }
    }

    fn pooled(&mut self, ratio: usize, row: &RowLayout, layout: &KvLayout) -> PooledRows {
        let open_len = KvLayout::open_len(row.dim, ratio);
        let n_open = KvLayout::open_positions(ratio);
        PooledRows {
            pages: self.take(layout.n_pages * (PAGE_TOKENS / ratio) * row.bytes()),
            staged: self.take(layout.staged_rows(ratio) * row.bytes()),
            open: self.take(4 * layout.n_slots * n_open * open_len),
            staged_open: self.take(4 * layout.step_rows * open_len),
            ratio: ratio as u32,
            per_page: (PAGE_TOKENS / ratio) as u32,
            n_open: n_open as u32,
            open_len: open_len as u32,
        }
    }
}

impl Kv {
    /// What [`Kv::new`] takes beyond `KvLayout::total_bytes`, at most.
    pub(crate) fn overhead(n_layers: usize, n_slots: usize) -> usize {
        n_layers * (10 * ALIGNMENT + size_of::<LayerRows>()) + 4 * n_slots
    }

    pub(crate) fn new(gpu: &Gpu, layout: &KvLayout) -> Result<Self> {
        let carve = |base: DevicePtr| {
            let mut carver = Carver { base, at: 0 };
            let layers = layout.layers.iter().map(|l| carver.layer(l.kind, layout));
            (layers.collect::<Vec<_>>(), carver.at)
        };
        let memory = gpu.alloc("KV", carve(DevicePtr::NULL).1)?;
        let (layers, _) = carve(memory.ptr());
        let table = gpu.alloc("KV table", layers.len() * size_of::<LayerRows>())?;
        let index_bytes = layout.index_row.bytes() as u32;
        for (i, layer) in layers.iter().enumerate() {
            let rows = LayerRows {
                window: layer.window,
                attention: layer.attention.unwrap_or_default(),
                index: layer.index.unwrap_or_default(),
                index_bytes,
                pad: [0; 3],
            };
            gpu.upload(&table, i * size_of::<LayerRows>(), bytes_of(&rows))?;
        }
        let accepted = gpu.alloc("KV accepted", 4 * layout.n_slots)?;
        Ok(Self { layout: layout.clone(), layers, _memory: memory, table, accepted })
    }

    pub(crate) fn window(&self, layer: usize) -> WindowRows {
        self.layers[layer].window
    }

    pub(crate) fn pooled(&self, layer: usize, pooled: Pooled) -> Result<PooledRows> {
        let layer = &self.layers[layer];
        let rows = match pooled {
            Pooled::Attention => layer.attention,
            Pooled::Index => layer.index,
        };
        rows.ok_or_else(|| Error::Unsupported {
            device: NAME,
            what: format!("{pooled:?} rows"),
            expected: "a layer that has them".to_owned(),
            found: layer.kind.name().to_owned(),
        })
    }

    pub(crate) fn row_format(&self, pooled: Pooled) -> RowFormat {
        RowFormat::new(self.row(pooled))
    }

    fn row(&self, pooled: Pooled) -> &RowLayout {
        match pooled {
            Pooled::Attention => &self.layout.row,
            Pooled::Index => &self.layout.index_row,
        }
    }

    pub(crate) fn commit(
        &self,
        gpu: &Gpu,
        mirror: &Mirror,
        step: &Step,
        layers: Range<usize>,
        accepted: &[u32],
    ) -> Result<()> {
        if accepted.is_empty() {
            return Ok(());
        }
        gpu.upload(&self.accepted, 0, bytemuck::cast_slice(accepted))?;
        let args = CommitArgs {
            layers: self.table.ptr(),
            accepted: self.accepted.ptr(),
            step: mirror.ptr(),
            first_layer: layers.start as u32,
            row_bytes: self.layout.row.bytes() as u32,
        };
        let longest = step.spans.iter().map(|s| s.n_rows as usize).max().unwrap_or(0);
        let blocks = COMMIT_KINDS * longest.clamp(1, COMMIT_BLOCKS);
        gpu.launch(&COMMIT, Launch::grid3(blocks, layers.len(), step.spans.len(), 256), &args)
    }

    /// The parts of every layer with the sizes of their pages, in the order of a page's bytes.
    fn page_parts(&self) -> impl Iterator<Item = (PooledRows, usize)> {
        self.layers.iter().flat_map(|layer| {
            let part = |rows: Option<PooledRows>, row: &RowLayout| {
                rows.map(|rows| (rows, rows.per_page as usize * row.bytes()))
            };
            let attention = part(layer.attention, &self.layout.row);
            attention.into_iter().chain(part(layer.index, &self.layout.index_row))
        })
    }

    pub(crate) fn copy_page(&self, gpu: &Gpu, from: u32, to: u32) -> Result<()> {
        let driver = gpu.settled()?;
        self.page_parts().try_for_each(|(rows, bytes)| {
            let at = |page: u32| rows.pages.add(page as usize * bytes);
            driver.copy(at(from), at(to), bytes)
        })
    }

    pub(crate) fn read_page(&self, gpu: &Gpu, page: u32, out: &mut Vec<u8>) -> Result<()> {
        let ranges = self.page_ranges(page);
        read(gpu, &ranges, out)
    }

    pub(crate) fn write_page(&self, gpu: &Gpu, page: u32, bytes: &[u8]) -> Result<()> {
        write(gpu, &self.page_ranges(page), "a page", bytes)
    }

    fn page_ranges(&self, page: u32) -> Vec<Piece> {
        let piece = |(rows, bytes): (PooledRows, usize)| Piece {
            at: rows.pages.add(page as usize * bytes),
            bytes,
        };
        self.page_parts().map(piece).collect()
    }

    pub(crate) fn read_anchor(
        &self,
        gpu: &Gpu,
        slot: u32,
        lens: &[usize],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        read(gpu, &self.anchor_pieces(slot, lens), out)
    }

    pub(crate) fn write_anchor(
        &self,
        gpu: &Gpu,
        slot: u32,
        lens: &[usize],
        bytes: &[u8],
    ) -> Result<()> {
        write(gpu, &self.anchor_pieces(slot, lens), "an anchor", bytes)
    }

    /// Window rows by position, then what the open rows of both compressors need, layer by layer.
    fn anchor_pieces(&self, slot: u32, lens: &[usize]) -> Vec<Piece> {
        let mut pieces = Pieces::default();
        let (slot, row_bytes, window) =
            (slot as usize, self.layout.row.bytes(), self.layout.window);
        for (layer, &len) in self.layers.iter().zip(lens) {
            let view = AnchorView { len };
            for pos in view.window(window) {
                let at = (slot * window + pos % window) * row_bytes;
                pieces.push(layer.window.ring.add(at), row_bytes);
            }
            let attention = layer.attention.map(|rows| (rows, self.layout.row.dim));
            let index = layer.index.map(|rows| (rows, self.layout.index_row.dim));
            for (rows, dim) in attention.into_iter().chain(index) {
                open_pieces(&rows, dim, slot, view, &mut pieces);
            }
        }
        pieces.0
    }
}

/// Of the previous window only the first halves of k and z, of the open one everything.
fn open_pieces(rows: &PooledRows, dim: usize, slot: usize, view: AnchorView, pieces: &mut Pieces) {
    let (n, len) = (rows.n_open as usize, rows.open_len as usize);
    let at = |pos: usize| rows.open.add(4 * (slot * n + pos % n) * len);
    let (previous, current) = view.open(rows.ratio as usize);
    for pos in previous {
        pieces.push(at(pos), 4 * dim);
        pieces.push(at(pos).add(2 * len), 4 * dim);
    }
    for pos in current {
        pieces.push(at(pos), 4 * len);
    }
}

/// Bytes of the store that lie side by side.
#[derive(Clone, Copy)]
struct Piece {
    at: DevicePtr,
    bytes: usize,
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn push(&mut self, at: DevicePtr, bytes: usize) {
        match self.0.last_mut() {
            Some(last) if last.at.add(last.bytes) == at => last.bytes += bytes,
            _ => self.0.push(Piece { at, bytes }),
        }
    }
}

fn read(gpu: &Gpu, pieces: &[Piece], out: &mut Vec<u8>) -> Result<()> {
    let driver = gpu.settled()?;
    let mut at = out.len();
    out.resize(at + pieces.iter().map(|p| p.bytes).sum::<usize>(), 0);
    for piece in pieces {
        driver.download(piece.at, &mut out[at..at + piece.bytes])?;
        at += piece.bytes;
    }
    Ok(())
}

fn write(gpu: &Gpu, pieces: &[Piece], what: &str, bytes: &[u8]) -> Result<()> {
    let expected: usize = pieces.iter().map(|p| p.bytes).sum();
    if expected != bytes.len() {
        return Err(Error::State {
            expected: format!("{what} of {expected} bytes"),
            found: format!("{} bytes", bytes.len()),
        });
    }
    let driver = gpu.settled()?;
    let mut rest = bytes;
    for piece in pieces {
        let (head, tail) = rest.split_at(piece.bytes);
        driver.upload(piece.at, head)?;
        rest = tail;
    }
    Ok(())
}

fn bytes_of(rows: &LayerRows) -> &[u8] {
    // SAFETY: the struct has no padding: all fields fill 8-byte words.
    unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(rows).cast::<u8>(), size_of::<LayerRows>())
    }
}
