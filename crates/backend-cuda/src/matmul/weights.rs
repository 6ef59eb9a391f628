//! Weights for products, in the layouts of `cuda/matmul/layout.cuh`.
//!
//! The six block formats of published files become chunks of 16 rows and 256 columns, made by a
//! kernel from pieces of the file. F32, F16 and BF16 stay as in the file. Every other type is decoded
//! to F32 on the host: exact, at four bytes a weight.

use backend::{Result, reference};
use model::HostTensor;
use quant::TensorType;

use super::{CHUNK_COLS, unsupported};
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch, args_bytes};
use crate::upload;
use crate::weight::FloatType;

pub(crate) const CHUNK_ROWS: usize = 16;
const REPACK: Kernel = Kernel::new("matmul/repack", "repack");

/// How a matrix lies in device memory; the tags of `layout.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Layout {
    Q8_0 = 0,
    Q2K = 1,
    Q4K = 2,
    Q6K = 3,
    Iq2Xxs = 4,
    Mxfp4 = 5,
    F32 = 8,
    F16 = 9,
    BF16 = 10,
}

/// Activations that a layout is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    None,
    /// A scale for every 32 columns.
    By32,
    /// A scale for every 256 columns.
    By256,
    /// Two f16 numbers, in kernels that have records of them; none in others.
    Halves,
}

impl Layout {
    /// The layout of a type's weights, and whether they are decoded to F32 for it.
    fn of(ty: TensorType) -> Option<(Self, bool)> {
        let (layout, decoded) = match ty {
            TensorType::Q8_0 => (Self::Q8_0, false),
            TensorType::Q2K => (Self::Q2K, false),
            TensorType::Q4K => (Self::Q4K, false),
            TensorType::Q6K => (Self::Q6K, false),
            TensorType::Iq2Xxs => (Self::Iq2Xxs, false),
            TensorType::Mxfp4 => (Self::Mxfp4, false),
            TensorType::F16 => (Self::F16, false),
            TensorType::BF16 => (Self::BF16, false),
            TensorType::F32 => (Self::F32, false),
            ty if ty.is_integer() => return None,
            _ => (Self::F32, true),
        };
        Some((layout, decoded))
    }

    /// Bytes of a chunk; `None` for row-major values.
    pub(super) fn chunk_bytes(self) -> Option<usize> {
        match self {
            Self::Q8_0 => Some(4352),
            Self::Q2K => Some(1344),
            Self::Q4K => Some(2368),
            Self::Q6K => Some(3360),
            Self::Iq2Xxs => Some(1120),
            Self::Mxfp4 => Some(2176),
            Self::F32 | Self::F16 | Self::BF16 => None,
        }
    }

    /// Whether it is made of chunks; otherwise of row-major values.
    pub(crate) fn is_chunked(self) -> bool {
        self.chunk_bytes().is_some()
    }

    pub(super) fn rounding(self) -> Rounding {
        match self {
            Self::Q8_0 | Self::Mxfp4 => Rounding::By32,
            Self::Q2K | Self::Q4K | Self::Q6K | Self::Iq2Xxs => Rounding::By256,
            Self::F16 => Rounding::Halves,
            Self::F32 | Self::BF16 => Rounding::None,
        }
    }

    /// Bytes of one expert's matrix.
    fn matrix_bytes(self, rows: usize, cols: usize) -> usize {
        match self.chunk_bytes() {
            Some(bytes) => rows.div_ceil(CHUNK_ROWS) * cols.div_ceil(CHUNK_COLS) * bytes,
            None => rows * cols * if self == Self::F32 { 4 } else { 2 },
        }
    }
}

/// How products of few rows round activations (`round.cuh`), in a model whose experts are gated by this type.
#[must_use]
pub fn rounds(gated: TensorType) -> reference::Rounds {
    match gated {
        TensorType::Iq2Xxs => |name, ty| {
            // A row alone has kernels that round their own results, a panel at a time.
            let rounding = rounding(ty)?;
            let alone = if name.contains("ffn_down") { CHUNK_ROWS } else { rounding.alone };
            Some(reference::Rounding { alone, ..rounding })
        },
        _ => |_, ty| rounding(ty),
    }
}

fn rounding(ty: TensorType) -> Option<reference::Rounding> {
    let block = match Layout::of(ty)?.0.rounding() {
        // Two f16 numbers hold 22 bits.
        Rounding::None | Rounding::Halves => return None,
        Rounding::By32 => 32,
        Rounding::By256 => CHUNK_COLS,
    };
    Some(reference::Rounding { block, alone: block, codes: 127 })
}

/// Bytes that a weight for products takes on the device; `None` for types it cannot compute with.
#[must_use]
pub(crate) fn matrix_bytes(
    ty: TensorType,
    experts: usize,
    rows: usize,
    cols: usize,
) -> Option<usize> {
    let (layout, _) = Layout::of(ty)?;
    Some(experts.max(1) * layout.matrix_bytes(rows, cols))
}

/// `[experts, rows, cols]` on the device.
pub struct Matrix {
    name: String,
    rows: usize,
    cols: usize,
    experts: usize,
    layout: Layout,
    buffer: Buffer,
}

/// `Matrix` of `panel.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct MatrixArgs {
    pub(super) w: DevicePtr,
    pub(super) expert_bytes: u64,
    pub(super) layout: u32,
    pub(super) rows: u32,
    pub(super) cols: u32,
    pub(super) aligned: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RepackArgs {
    from: DevicePtr,
    to: DevicePtr,
    rows: u32,
    cols: u32,
    chunks: u32,
    panels: u32,
    layout: u32,
    row_bytes: u32,
}

// SAFETY: `repr(C)`, as in `repack.cu`, without padding.
unsafe impl Args for RepackArgs {}

impl Matrix {
    /// Takes a weight as it lies in the file, a piece at a time.
    pub(crate) fn upload(gpu: &Gpu, t: &HostTensor) -> Result<Self> {
        let Some((layout, decoded)) = Layout::of(t.ty) else {
            return Err(unsupported(&t.name, "floats or a block format", t.ty.name()));
        };
        let experts = t.experts.max(1);
        let bytes = experts * layout.matrix_bytes(t.rows, t.cols);
        let buffer = gpu.alloc("weights", bytes)?;
        let matrix =
            Self { name: t.name.clone(), rows: t.rows, cols: t.cols, experts, layout, buffer };
        match (decoded, layout.chunk_bytes()) {
            (true, _) => upload::decoded(gpu, t, &matrix.buffer)?,
            (false, None) => upload::plain(gpu, t, &matrix.buffer)?,
            (false, Some(bytes)) => matrix.fill_chunks(gpu, t, bytes)?,
        }
        Ok(matrix)
    }

    fn fill_chunks(&self, gpu: &Gpu, t: &HostTensor, chunk_bytes: usize) -> Result<()> {
        let Some(row_bytes) = t.ty.row_bytes(t.cols) else {
            let expected = format!("a width in blocks of {}", t.ty.block_len());
            return Err(unsupported(&t.name, expected, t.cols.to_string()));
        };
        // Experts of whole panels are one long matrix.
        let (parts, rows) = match t.rows.is_multiple_of(CHUNK_ROWS) {
            true => (1, self.experts * t.rows),
            false => (self.experts, t.rows),
        };
        let chunks = t.cols.div_ceil(CHUNK_COLS);
        let panels = (upload::PIECE / (CHUNK_ROWS * row_bytes)).max(1);
        let pieces = rows.div_ceil(panels * CHUNK_ROWS);
        // The first row of a piece within its part, and its rows.
        let of_part = |i: usize| {
            let first = i % pieces * panels * CHUNK_ROWS;
            (first, (panels * CHUNK_ROWS).min(rows - first))
        };
        let driver = gpu.settled()?;
        let fill = |i: usize, out: &mut [u8]| {
            let (first, n) = of_part(i);
            let at = (i / pieces * rows + first) * row_bytes;
            upload::read(t, at, &mut out[..n * row_bytes])
        };
        let sent = |i: usize, from: DevicePtr| {
            let (first, n) = of_part(i);
            let panel = i / pieces * rows.div_ceil(CHUNK_ROWS) + first / CHUNK_ROWS;
            let args = RepackArgs {
                from,
                to: self.buffer.ptr().add(panel * chunks * chunk_bytes),
                rows: n as u32,
                cols: t.cols as u32,
                chunks: chunks as u32,
                panels: n.div_ceil(CHUNK_ROWS) as u32,
                layout: self.layout as u32,
                row_bytes: row_bytes as u32,
            };
            let warps = n.div_ceil(CHUNK_ROWS) * chunks;
            driver.launch(&REPACK, Launch::new(warps.div_ceil(8), 256), args_bytes(&args))
        };
        driver.stream_in(parts * pieces, panels * CHUNK_ROWS * row_bytes, &fill, &sent)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn experts(&self) -> usize {
        self.experts
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Chunks of a row.
    pub(super) fn chunks(&self) -> usize {
        self.cols.div_ceil(CHUNK_COLS)
    }

    /// Panels that one of `n_groups` equal groups of rows may touch: a group that does not begin with
    /// a panel may reach into one more.
    pub(super) fn group_panels(&self, n_groups: usize) -> usize {
        let rows = self.rows / n_groups;
        rows.div_ceil(CHUNK_ROWS) + usize::from(n_groups > 1 && !rows.is_multiple_of(CHUNK_ROWS))
    }

    /// Where plain row-major values lie; `None` for block formats.
    pub(crate) fn floats(&self) -> Option<(DevicePtr, FloatType)> {
        let ty = match self.layout {
            Layout::F32 => FloatType::F32,
            Layout::F16 => FloatType::F16,
            Layout::BF16 => FloatType::BF16,
            _ => return None,
        };
        Some((self.buffer.ptr(), ty))
    }

    pub(super) fn args(&self) -> MatrixArgs {
        MatrixArgs {
            w: self.buffer.ptr(),
            expert_bytes: self.layout.matrix_bytes(self.rows, self.cols) as u64,
            layout: self.layout as u32,
            rows: self.rows as u32,
            cols: self.cols as u32,
            aligned: u32::from(self.cols.is_multiple_of(8)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_take_the_files_bytes_or_say_so() {
        for (ty, more) in [
            (TensorType::Q8_0, 0),
            (TensorType::Q2K, 0),
            (TensorType::Q6K, 0),
            (TensorType::Mxfp4, 0),
            (TensorType::F16, 0),
            // Bytes more a block of 256 weights.
            (TensorType::Q4K, 4),
            (TensorType::Iq2Xxs, 4),
        ] {
            let file = 6 * 2048 * ty.row_bytes(4096).expect("whole blocks");
            let more = 6 * 2048 * 4096 / 256 * more;
            assert_eq!(matrix_bytes(ty, 6, 2048, 4096), Some(file + more), "{ty}");
        }
        assert_eq!(matrix_bytes(TensorType::Q5K, 0, 3, 256), Some(3 * 256 * 4));
        assert_eq!(matrix_bytes(TensorType::I32, 1, 3, 256), None);
    }
}
