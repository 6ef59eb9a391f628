//! Errors that name the file, the key or tensor, what was expected and what was found.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file is not a DeepSeek V4 model that this engine can run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container itself is at fault, or a key is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A metadata value is outside what the architecture allows.
    #[error("{}: key `{key}`: expected {expected}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// What the architecture allows.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A tensor that this configuration needs is not in the file.
    #[error("{}: tensor `{name}` is missing; expected {expected}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Shape or purpose.
        expected: String,
    },
    /// A tensor has another shape or type than the configuration implies.
    #[error("{}: tensor `{name}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Shape, type or range expected.
        expected: String,
        /// Shape, type or value found.
        found: String,
    },
}
