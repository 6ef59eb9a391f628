//! What a sequence keeps in memory, from the configuration alone (spec: model §5).

use model::{Config, LayerKind};
use serde::Serialize;

/// How compressed rows and window rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// Four bytes a channel: exact, for tests.
    F32,
    /// Two bytes a channel.
    F16,
    /// The precision the model is trained for: FP8 with a scale per 64 channels, RoPE channels
    /// in sixteen bits, index rows in FP4 with a scale per 32.
    Model,
}

impl RowFormat {
    /// Bytes of an attention row.
    pub fn row_bytes(self, c: &Config) -> u64 {
        let (rope, plain) = (c.rope_dim as u64, (c.head_dim - c.rope_dim) as u64);
        match self {
            Self::F32 => 4 * (plain + rope),
            Self::F16 => 2 * (plain + rope),
            // Rows stay aligned to the sixteen-bit channels.
            Self::Model => (plain + plain.div_ceil(64)).next_multiple_of(2) + 2 * rope,
        }
    }

    /// Bytes of an index row.
    pub fn index_bytes(self, c: &Config) -> u64 {
        let dim = c.indexer.head_dim as u64;
        match self {
            Self::F32 => 4 * dim,
            Self::F16 => 2 * dim,
            Self::Model => dim.div_ceil(2) + dim.div_ceil(32),
        }
    }
}

/// Bytes of compressed rows that a context of one more token adds, on average.
pub fn per_token(c: &Config, format: RowFormat) -> f64 {
    let (row, index) = (format.row_bytes(c) as f64, format.index_bytes(c) as f64);
    let layer = |kind: &LayerKind| match kind {
        LayerKind::SlidingWindow => 0.0,
        LayerKind::Csa => (row + index) / 4.0,
        LayerKind::Hca => row / 128.0,
    };
    c.layers.iter().map(layer).sum()
}

/// Bytes of compressed rows after `tokens` tokens.
pub fn rows(c: &Config, format: RowFormat, tokens: u64) -> u64 {
    let (row, index) = (format.row_bytes(c), format.index_bytes(c));
    let layer = |kind: &LayerKind| match kind {
        LayerKind::SlidingWindow => 0,
        LayerKind::Csa => tokens / 4 * (row + index),
        LayerKind::Hca => tokens / 128 * row,
    };
    c.layers.iter().map(layer).sum()
}

/// Bytes that a sequence takes whatever its length: the windows, and the compressors' open
/// windows in 32-bit floats.
pub fn fixed(c: &Config, format: RowFormat) -> u64 {
    let windows = c.layers.len() as u64 * c.window as u64 * format.row_bytes(c);
    let (row, index) = (c.head_dim as u64, c.indexer.head_dim as u64);
    let state = |kind: &LayerKind| match kind {
        LayerKind::SlidingWindow => 0,
        // Two windows of four tokens, two halves, keys and gates; attention and indexer.
        LayerKind::Csa => 4 * 8 * 2 * 2 * (row + index),
        LayerKind::Hca => 4 * 128 * 2 * row,
    };
    windows + c.layers.iter().map(state).sum::<u64>()
}

/// Bytes of rows that decoding one token reads after `tokens` tokens: the windows, the chosen or
/// all compressed rows, and every index row.
pub fn read_per_token(c: &Config, format: RowFormat, tokens: u64) -> u64 {
    let (row, index) = (format.row_bytes(c), format.index_bytes(c));
    let layer = |kind: &LayerKind| {
        let window = tokens.min(c.window as u64) * row;
        window
            + match kind {
                LayerKind::SlidingWindow => 0,
                LayerKind::Csa => {
                    (tokens / 4).min(c.indexer.top_k as u64) * row + tokens / 4 * index
                }
                LayerKind::Hca => tokens / 128 * row,
            }
    };
    c.layers.iter().map(layer).sum()
}

/// Floating-point operations of attention and indexer for one token after `tokens` tokens.
pub fn flops_per_token(c: &Config, tokens: u64) -> u64 {
    let layer = |kind: &LayerKind| {
        let (chosen, scored) = match kind {
            LayerKind::SlidingWindow => (0, 0),
            LayerKind::Csa => ((tokens / 4).min(c.indexer.top_k as u64), tokens / 4),
            LayerKind::Hca => (tokens / 128, 0),
        };
        let keys = tokens.min(c.window as u64) + chosen;
        4 * (c.n_heads * c.head_dim) as u64 * keys
            + 2 * (c.indexer.n_heads * c.indexer.head_dim) as u64 * scored
    };
    c.layers.iter().map(layer).sum()
}

#[cfg(test)]
mod tests {
    use model::Preset;

    use super::*;

    /// The table of spec: model §5.
    #[test]
    fn bytes_per_token_are_those_of_the_specification() {
        let (flash, pro) = (Preset::Flash.config(), Preset::Pro.config());
        let cases = [
            (RowFormat::F32, 13760, 19696),
            (RowFormat::F16, 6880, 9848),
            (RowFormat::Model, 3514, 5031),
        ];
        for (format, in_flash, in_pro) in cases {
            assert_eq!(per_token(&flash, format).round() as u64, in_flash, "{format:?}");
            assert_eq!(per_token(&pro, format).round() as u64, in_pro, "{format:?}");
        }
        let million = rows(&flash, RowFormat::Model, 1 << 20);
        assert_eq!(million, (per_token(&flash, RowFormat::Model) * f64::from(1 << 20)) as u64);
        let windows = 43 * 128 * 1024;
        let state = fixed(&flash, RowFormat::F16) - windows;
        assert!((12.1e6..12.3e6).contains(&(state as f64)), "{state}");
    }

    /// The table of spec: model §7: megabytes read and GFLOP at 1 Ki to 1 Mi tokens.
    #[test]
    fn reads_and_operations_grow_as_specified() {
        let flash = Preset::Flash.config();
        let cases = [
            (1u64 << 10, 12.7, 1.54),
            (8 << 10, 29.0, 3.0),
            (64 << 10, 115.0, 9.1),
            (1 << 20, 1594.0, 113.8),
        ];
        for (tokens, megabytes, gflop) in cases {
            let read = read_per_token(&flash, RowFormat::F16, tokens) as f64 / 1e6;
            let work = flops_per_token(&flash, tokens) as f64 / 1e9;
            assert!((read / megabytes - 1.0).abs() < 0.01, "{tokens}: {read} MB");
            assert!((work / gflop - 1.0).abs() < 0.01, "{tokens}: {work} GFLOP");
        }
    }
}
