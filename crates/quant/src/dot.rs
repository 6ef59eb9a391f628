//! Products of quantised weight matrices with rows of activations.
//!
//! [`Kernels`] is a table of functions chosen once for the machine. All tables give the same bits,
//! and the bits of an output depend on its weight row and its activation row alone: not on how many
//! rows are computed together, in which pieces, by which kernel or on which machine. The law:
//!
//! - **Block formats** (see [`ActFormat`]) meet activations rounded to integers. Products are summed
//!   exactly in int32 over one activation block, and blocks are added to an f32 in ascending order
//!   with one fused multiply-add each: `acc = fma(sum as f32, d_weight * d_activation, acc)`, then,
//!   for formats with minima, `acc = fma(-min_sum as f32, dmin_weight * d_activation, acc)`.
//! - **F32, F16, BF16 and every other format** meet f32 activations. Eight accumulators take the
//!   elements `k % 8` in ascending order by fused multiply-add (elements past the end are zeros) and
//!   are added as `((0+4)+(2+6)) + ((1+5)+(3+7))`.

mod activations;
mod matrix;

pub use activations::{RoundedRowMut, RoundedRows, RoundedShared};
pub(crate) use activations::{WIDE_LIMIT, wide_place};
pub(crate) use matrix::picked;
pub use matrix::{Acts, Out, Weights};

use crate::TensorType;
use crate::arch::{self, Isa};

/// What the activations that meet a weight format look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// Unrounded.
    F32,
    /// int16 (13 bits used) with an f32 scale per 32 values (Q8_0): products of bytes leave no room to
    /// add in int16, so kernels widen to words anyway, and the words may as well hold more.
    Q16x32,
    /// int8 with an f32 scale per 32 values (MXFP4).
    Q8x32,
    /// int8 with an f32 scale per 256 values (Q2_K, Q4_K, Q6_K, IQ2_XXS).
    Q8x256,
}

impl ActFormat {
    /// The activations that weights of type `ty` are multiplied with.
    #[must_use]
    pub const fn of(ty: TensorType) -> Self {
        match ty {
            TensorType::Q8_0 => Self::Q16x32,
            TensorType::Mxfp4 => Self::Q8x32,
            TensorType::Q2K | TensorType::Q4K | TensorType::Q6K | TensorType::Iq2Xxs => {
                Self::Q8x256
            }
            _ => Self::F32,
        }
    }

    /// Values that share a scale; `None` for unrounded activations.
    #[must_use]
    pub const fn block(self) -> Option<usize> {
        match self {
            Self::F32 => None,
            Self::Q16x32 | Self::Q8x32 => Some(32),
            Self::Q8x256 => Some(256),
        }
    }
}

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: &'static Isa,
}

impl Kernels {
    /// The fastest kernels that this machine can run.
    #[must_use]
    pub fn detect() -> Self {
        // `available` lists the slowest first and is never empty.
        Self { isa: arch::available().last().copied().unwrap_or(&arch::GENERIC) }
    }

    /// The portable kernels, which are the definition of the others.
    #[must_use]
    pub fn generic() -> Self {
        Self { isa: &arch::GENERIC }
    }

    /// Every table that this machine can run, the portable one first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        arch::available().into_iter().map(|isa| Self { isa }).collect()
    }

    /// Name of the instruction set, for example `avx2`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.isa.name
    }

    /// Rounds one row of activations.
    ///
    /// # Panics
    /// When `x` is not as long as the row.
    pub fn quantize(&self, x: &[f32], row: &mut RoundedRowMut<'_>) {
        assert_eq!(x.len(), row.cols(), "activation row and its rounded form differ in length");
        // SAFETY: the table was listed as available, so its instructions exist here.
        unsafe { (self.isa.quantize)(x, row) }
    }

    /// `out[n][r] = weights[r] · acts[n]` for every weight row `r` and activation row `n`.
    ///
    /// # Panics
    /// When the activations' width, format or number differ from what weights and output need.
    pub fn matmul(
        &self,
        weights: &Weights<'_>,
        acts: &Acts<'_>,
        out: &mut Out<'_>,
        scratch: &mut Scratch,
    ) {
        assert_eq!(acts.cols(), weights.cols(), "width of activations and weights");
        assert_eq!(acts.n_rows(), out.rows(), "rows of activations and output");
        assert_eq!(out.cols(), weights.rows(), "rows of weights and columns of output");
        match acts {
            Acts::F32 { .. } => assert_eq!(ActFormat::of(weights.ty()), ActFormat::F32),
            Acts::Rounded { rows, .. } => {
                assert_eq!(ActFormat::of(weights.ty()), rows.format());
            }
        }
        if out.rows() > 0 && out.cols() > 0 {
            // SAFETY: the table was listed as available; shapes and formats were checked above.
            unsafe { (self.isa.matmul)(weights, acts, out, scratch) }
        }
    }

    /// Sum of `a[k] * b[k]` in the order of the float law.
    ///
    /// # Panics
    /// When the lengths differ.
    #[must_use]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "lengths of a dot product");
        // SAFETY: the table was listed as available; lengths are equal.
        unsafe { (self.isa.dot)(a, b) }
    }

    /// `x = e^(x - max)`; returns the sum.
    pub fn exp_sum(&self, x: &mut [f32], max: f32) -> f32 {
        // SAFETY: the table was listed as available.
        unsafe { (self.isa.exp_sum)(x, max) }
    }

    /// `x *= scale`; returns the largest product, or `least` if that is larger.
    pub fn scale_max(&self, x: &mut [f32], scale: f32, least: f32) -> f32 {
        // SAFETY: the table was listed as available.
        unsafe { (self.isa.scale_max)(x, scale, least) }
    }

    /// `streams[k] = post[k] * y + (comb[0][k] * streams[0] + comb[1][k] * streams[1] + …)`, channel by
    /// channel, all from the old streams.
    ///
    /// # Panics
    /// When there are no streams or too many, or lengths do not go together.
    pub fn expand(&self, last: &Expand<'_>, streams: &mut [f32]) {
        let (n, hidden) = (last.post.len(), last.y.len());
        assert!((1..=Expand::STREAMS_MAX).contains(&n), "{n} streams");
        assert_eq!(streams.len(), n * hidden, "lengths of streams and output");
        assert_eq!(last.comb.len(), n * n, "a weight for each pair of streams");
        // SAFETY: the table was listed as available.
        unsafe { (self.isa.expand)(last, streams) }
    }

    /// `gate = scale * silu(min(gate, clamp)) * clamp(up, ±clamp)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn swiglu(&self, gate: &mut [f32], up: &[f32], clamp: f32, scale: f32) {
        assert_eq!(gate.len(), up.len(), "lengths of gate and up");
        // SAFETY: the table was listed as available.
        unsafe { (self.isa.swiglu)(gate, up, clamp, scale) }
    }

    /// Adds one entry to a softmax pooling over channels.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn pool(&self, entry: &PoolEntry<'_>, sum: &mut [f32], weighted: &mut [f32]) {
        let lens = [entry.k.len(), entry.z.len(), entry.max.len(), weighted.len()];
        assert_eq!(lens, [sum.len(); 4], "lengths of a pooling");
        // SAFETY: the table was listed as available.
        unsafe { (self.isa.pool)(entry, sum, weighted) }
    }

    /// Adds `weights[h] · keys` to every row `h` of `out`, key by key in ascending order.
    ///
    /// # Panics
    /// When keys or outputs are no whole rows, or weights are too few.
    pub fn weighted_sum(&self, sum: &WeightedSum<'_>, out: &mut [f32]) {
        assert!(out.len().is_multiple_of(sum.dim) && sum.keys.len().is_multiple_of(sum.dim));
        let (rows, keys) = (out.len() / sum.dim, sum.keys.len() / sum.dim);
        assert!(rows == 0 || sum.weights.len() >= (rows - 1) * sum.stride + keys, "weights");
        // SAFETY: the table was listed as available.
        unsafe { (self.isa.weighted_sum)(sum, out) }
    }
}

/// What enters the streams of a hyper-connection.
pub struct Expand<'a> {
    /// The sublayer's output.
    pub y: &'a [f32],
    /// How much of it each stream takes.
    pub post: &'a [f32],
    /// `[from, to]`: how much of each old stream each new one takes.
    pub comb: &'a [f32],
}

impl Expand<'_> {
    /// Streams at most; any published model has four.
    pub const STREAMS_MAX: usize = 8;
}

/// One entry of a softmax pooling.
pub struct PoolEntry<'a> {
    /// Values, a channel each.
    pub k: &'a [f32],
    /// Logits.
    pub z: &'a [f32],
    /// The largest logits of all entries.
    pub max: &'a [f32],
}

/// Rows to add up, with a weight for each row and output.
pub struct WeightedSum<'a> {
    /// `[outputs, keys]`, rows `stride` apart.
    pub weights: &'a [f32],
    /// Distance between the weights of two outputs.
    pub stride: usize,
    /// `[keys, dim]`.
    pub keys: &'a [f32],
    /// Values of a row.
    pub dim: usize,
}

/// Weight rows that are unpacked together.
pub(crate) const PANEL_ROWS: usize = 128;
/// Weights of a row that are unpacked together; a multiple of every block length.
pub(crate) const PANEL_COLS: usize = 1024;

/// Working memory of one thread, of one fixed size (about 350 KiB).
pub struct Scratch {
    /// Unpacked weights, at most 16 bits each, then what belongs to their blocks.
    pub(crate) panel: Vec<Line>,
    pub(crate) scales: Vec<Line>,
    pub(crate) acts: Vec<Line>,
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line(#[allow(dead_code)] pub(crate) [u8; 64]);

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Allocates the working memory.
    #[must_use]
    pub fn new() -> Self {
        let lines = |bytes: usize| vec![Line([0; 64]); bytes / 64];
        let [panel, scales, acts] =
            [Self::PANEL_BYTES, Self::SCALE_BYTES, Self::ACT_BYTES].map(lines);
        Self { panel, scales, acts }
    }

    pub(crate) const PANEL_BYTES: usize = PANEL_ROWS * PANEL_COLS * 2;
    /// One 32-bit entry per 16 weights for scales and per 32 for minima, and block scales.
    pub(crate) const SCALE_BYTES: usize = PANEL_ROWS * PANEL_COLS / 2;
    /// Eight rows, at most 32 bits a value.
    pub(crate) const ACT_BYTES: usize = 8 * PANEL_COLS * 4;

    /// Bytes that [`Scratch::new`] allocates.
    pub const BYTES: usize = Self::PANEL_BYTES + Self::SCALE_BYTES + Self::ACT_BYTES;
}

#[cfg(test)]
mod tests;
