use std::{io, path::PathBuf};

use quant::TensorType;
use thiserror::Error;

/// What is wrong with a file, or why it could not be read or written.
///
/// `file` is the path, or the label given to an embedded file.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages say what each field is.
pub enum Error {
    #[error("{file}: cannot {action}: {source}")]
    Io { file: String, action: &'static str, source: io::Error },

    #[error("{file}: not a GGUF file: expected it to start with \"GGUF\", found {found:02x?}")]
    NotGguf { file: String, found: Vec<u8> },

    #[error("{file}: expected GGUF version 2 or 3, found {found}")]
    Version { file: String, found: u32 },

    #[error("{file}: big-endian GGUF files are not supported")]
    BigEndian { file: String },

    #[error(
        "{file}: truncated: {what} needs {needed} bytes at offset {offset}, the file has {available}"
    )]
    Truncated { file: String, what: String, offset: u64, needed: u64, available: u64 },

    #[error("{file}: {found} {what} cannot fit in the rest of the file, which has room for {max}")]
    Count { file: String, what: String, found: u64, max: u64 },

    #[error("{file}: {what} is not valid UTF-8")]
    Utf8 { file: String, what: String },

    #[error("{file}: key {key:?}: expected a value type 0..=12, found {found}")]
    ValueType { file: String, key: String, found: u32 },

    #[error("{file}: key {key:?}: arrays of arrays are not supported")]
    NestedArray { file: String, key: String },

    #[error("{file}: key {key:?}: expected 0 or 1 as a boolean, found {found}")]
    Bool { file: String, key: String, found: u8 },

    #[error("{file}: key {key:?} occurs twice")]
    DuplicateKey { file: String, key: String },

    #[error("{file}: key {key:?} is missing, expected {expected}")]
    MissingKey { file: String, key: String, expected: &'static str },

    #[error("{file}: key {key:?}: expected {expected}, found {found}")]
    WrongType { file: String, key: String, expected: &'static str, found: String },

    #[error("{file}: tensor {tensor:?} occurs twice")]
    DuplicateTensor { file: String, tensor: String },

    #[error("{file}: tensor {tensor:?}: expected 1 to 4 dimensions, found {found}")]
    DimensionCount { file: String, tensor: String, found: u32 },

    #[error("{file}: tensor {tensor:?}: dimensions {dims:?} hold a zero or too many elements")]
    Dimensions { file: String, tensor: String, dims: Vec<u64> },

    #[error("{file}: tensor {tensor:?}: unknown element type {found}")]
    TensorType { file: String, tensor: String, found: u32 },

    #[error(
        "{file}: tensor {tensor:?}: {ty} needs rows of a multiple of {} weights, found {cols}",
        ty.block_len()
    )]
    RowLength { file: String, tensor: String, ty: TensorType, cols: u64 },

    #[error("{file}: expected an alignment that is a power of two from 1 to 2^30, found {found}")]
    Alignment { file: String, found: u64 },

    #[error(
        "{file}: tensor {tensor:?}: offset {offset} is no multiple of the alignment {alignment}"
    )]
    Misaligned { file: String, tensor: String, offset: u64, alignment: u64 },

    #[error(
        "{file}: tensor {tensor:?}: expected {n_bytes} bytes at offset {offset}, \
         the file has {file_bytes}"
    )]
    OutOfBounds { file: String, tensor: String, offset: u64, n_bytes: u64, file_bytes: u64 },

    #[error("{file}: tensors {tensor:?} and {other:?} overlap")]
    Overlap { file: String, tensor: String, other: String },

    #[error("{file}: split: expected {what} {expected}, found {found}")]
    Split { file: String, what: &'static str, expected: String, found: String },

    #[error("{file}: one of {count} parts, of which {missing} is missing")]
    MissingShard { file: String, count: u64, missing: PathBuf },

    #[error("{file}: writing {what}: expected {expected}, found {found}")]
    Write { file: String, what: String, expected: String, found: String },
}

impl Error {
    /// The path or label of the file that the error is about.
    #[must_use]
    pub fn file(&self) -> &str {
        match self {
            Self::Io { file, .. }
            | Self::NotGguf { file, .. }
            | Self::Version { file, .. }
            | Self::BigEndian { file }
            | Self::Truncated { file, .. }
            | Self::Count { file, .. }
            | Self::Utf8 { file, .. }
            | Self::ValueType { file, .. }
            | Self::NestedArray { file, .. }
            | Self::Bool { file, .. }
            | Self::DuplicateKey { file, .. }
            | Self::MissingKey { file, .. }
            | Self::WrongType { file, .. }
            | Self::DuplicateTensor { file, .. }
            | Self::DimensionCount { file, .. }
            | Self::Dimensions { file, .. }
            | Self::TensorType { file, .. }
            | Self::RowLength { file, .. }
            | Self::Alignment { file, .. }
            | Self::Misaligned { file, .. }
            | Self::OutOfBounds { file, .. }
            | Self::Overlap { file, .. }
            | Self::Split { file, .. }
            | Self::MissingShard { file, .. }
            | Self::Write { file, .. } => file,
        }
    }
}
