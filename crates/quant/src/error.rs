use thiserror::Error;

use crate::TensorType;

/// Why a conversion was refused. Nothing has been written to the output when an error is returned.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The byte side and the weight side of a conversion disagree, or a block is incomplete.
    #[error(
        "{ty}: {weights} weights need {} bytes in whole blocks of {}, but {bytes} bytes were given",
        expected.map_or_else(|| "a number of".to_owned(), |n| n.to_string()), ty.block_len()
    )]
    Length {
        /// Format of the byte side.
        ty: TensorType,
        /// Weights on the float side.
        weights: usize,
        /// Bytes that so many weights take; `None` when they are no whole blocks.
        expected: Option<usize>,
        /// Bytes on the encoded side.
        bytes: usize,
    },
    /// The format cannot be turned into floats: it holds integers or is never stored in files.
    #[error("{ty} has no decoder to floats")]
    NoDecoder {
        /// The format asked for.
        ty: TensorType,
    },
    /// The format can be read but not written.
    #[error("{ty} has no encoder")]
    NoEncoder {
        /// The format asked for.
        ty: TensorType,
    },
    /// A block format was asked to store an infinity or a NaN.
    #[error("{ty} cannot store {value} (weight {index})")]
    NotFinite {
        /// Target format.
        ty: TensorType,
        /// Index of the first such weight in the input.
        index: usize,
        /// The weight itself.
        value: f32,
    },
    /// Importance weights do not cover the input evenly, or are negative or not finite.
    #[error("{weights} weights cannot be ranked by {importance} importances: {why}")]
    Importance {
        /// Weights to encode.
        weights: usize,
        /// Importances given.
        importance: usize,
        /// What is wrong with them.
        why: &'static str,
    },
    /// A Hadamard transform of a length that is no power of two.
    #[error("a Hadamard transform needs a power of two, found {len} values")]
    NotPowerOfTwo {
        /// Values given.
        len: usize,
    },
    /// A block-scaled conversion of a length that is no multiple of the block, or wrong buffers.
    #[error("{what}: expected {expected}, found {found}")]
    Blocks {
        /// Which length is wrong.
        what: &'static str,
        /// Length required.
        expected: usize,
        /// Length given.
        found: usize,
    },
}
