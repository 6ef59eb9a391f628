//! The element types that a GGUF tensor directory can name, with their block geometry.
//!
//! Numbers and names are those of `ggml.h` (`enum ggml_type`); a block is the smallest run of
//! weights that can be decoded alone, always along a tensor's first (fastest) dimension.

use std::fmt;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The variants are the format names; `name()` gives ggml's spelling.
pub enum TensorType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q1_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
}

/// One row of the table behind [`TensorType`]'s methods.
struct Traits {
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
}

impl TensorType {
    /// Every type, in the order of ggml's numbers.
    pub const ALL: [Self; 34] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q8_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
        Self::Iq2Xxs,
        Self::Iq2Xs,
        Self::Iq3Xxs,
        Self::Iq1S,
        Self::Iq4Nl,
        Self::Iq3S,
        Self::Iq2S,
        Self::Iq4Xs,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F64,
        Self::Iq1M,
        Self::BF16,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::Mxfp4,
        Self::Nvfp4,
        Self::Q1_0,
    ];

    const fn traits(self) -> Traits {
        const fn t(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> Traits {
            Traits { id, name, block_len, block_bytes }
        }
        match self {
            Self::F32 => t(0, "F32", 1, 4),
            Self::F16 => t(1, "F16", 1, 2),
            Self::Q4_0 => t(2, "Q4_0", 32, 18),
            Self::Q4_1 => t(3, "Q4_1", 32, 20),
            Self::Q5_0 => t(6, "Q5_0", 32, 22),
            Self::Q5_1 => t(7, "Q5_1", 32, 24),
            Self::Q8_0 => t(8, "Q8_0", 32, 34),
            Self::Q8_1 => t(9, "Q8_1", 32, 36),
            Self::Q2K => t(10, "Q2_K", 256, 84),
            Self::Q3K => t(11, "Q3_K", 256, 110),
            Self::Q4K => t(12, "Q4_K", 256, 144),
            Self::Q5K => t(13, "Q5_K", 256, 176),
            Self::Q6K => t(14, "Q6_K", 256, 210),
            Self::Q8K => t(15, "Q8_K", 256, 292),
            Self::Iq2Xxs => t(16, "IQ2_XXS", 256, 66),
            Self::Iq2Xs => t(17, "IQ2_XS", 256, 74),
            Self::Iq3Xxs => t(18, "IQ3_XXS", 256, 98),
            Self::Iq1S => t(19, "IQ1_S", 256, 50),
            Self::Iq4Nl => t(20, "IQ4_NL", 32, 18),
            Self::Iq3S => t(21, "IQ3_S", 256, 110),
            Self::Iq2S => t(22, "IQ2_S", 256, 82),
            Self::Iq4Xs => t(23, "IQ4_XS", 256, 136),
            Self::I8 => t(24, "I8", 1, 1),
            Self::I16 => t(25, "I16", 1, 2),
            Self::I32 => t(26, "I32", 1, 4),
            Self::I64 => t(27, "I64", 1, 8),
            Self::F64 => t(28, "F64", 1, 8),
            Self::Iq1M => t(29, "IQ1_M", 256, 56),
            Self::BF16 => t(30, "BF16", 1, 2),
            Self::Tq1_0 => t(34, "TQ1_0", 256, 54),
            Self::Tq2_0 => t(35, "TQ2_0", 256, 66),
            Self::Mxfp4 => t(39, "MXFP4", 32, 17),
            Self::Nvfp4 => t(40, "NVFP4", 64, 36),
            Self::Q1_0 => t(41, "Q1_0", 128, 18),
        }
    }

    /// The type with ggml's number `id`; `None` for numbers that ggml never gave or has withdrawn.
    #[must_use]
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.ggml_id() == id)
    }

    /// The type whose [`name`](Self::name) is `name`, in any letter case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// ggml's number, as stored in GGUF tensor directories.
    #[must_use]
    pub const fn ggml_id(self) -> u32 {
        self.traits().id
    }

    /// ggml's spelling, for example `IQ2_XXS`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.traits().name
    }

    /// Weights in one block; 1 for plain numbers.
    #[must_use]
    pub const fn block_len(self) -> usize {
        self.traits().block_len
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        self.traits().block_bytes
    }

    /// Bytes of a row of `cols` weights; `None` when `cols` is no multiple of the block length or
    /// the size overflows.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Storage cost in bits per weight.
    #[must_use]
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// True for F32, F16, BF16 and F64.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64)
    }

    /// True for I8, I16, I32 and I64.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64)
    }

    /// True for block formats with scales.
    #[must_use]
    pub const fn is_quantised(self) -> bool {
        !self.is_float() && !self.is_integer()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::TensorType;

    #[test]
    fn ids_and_names_round_trip() {
        for ty in TensorType::ALL {
            assert_eq!(TensorType::from_ggml_id(ty.ggml_id()), Some(ty));
            assert_eq!(TensorType::from_name(&ty.name().to_lowercase()), Some(ty));
        }
        let ids: Vec<u32> = TensorType::ALL.iter().map(|ty| ty.ggml_id()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "every type is listed once, in ggml's order");
    }

    #[test]
    fn withdrawn_ids_are_unknown() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 42, u32::MAX] {
            assert_eq!(TensorType::from_ggml_id(id), None);
        }
    }

    #[test]
    fn rows_need_whole_blocks() {
        assert_eq!(TensorType::Q8_0.row_bytes(64), Some(68));
        assert_eq!(TensorType::Q8_0.row_bytes(65), None);
        assert_eq!(TensorType::F64.row_bytes(usize::MAX), None);
        assert_eq!(TensorType::Iq2Xxs.row_bytes(0), Some(0));
    }
}
