//! What can go wrong on a device.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A device's refusal, with the numbers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Memory for a buffer could not be had.
    #[error("{label}: {bytes} bytes could not be allocated on {device}")]
    OutOfMemory {
        /// Which device.
        device: &'static str,
        /// What the buffer is for.
        label: &'static str,
        /// How large it would have been.
        bytes: u64,
    },
    /// The backend cannot hold or compute this.
    #[error("{what}: {device} expects {expected}, found {found}")]
    Unsupported {
        /// Which device.
        device: &'static str,
        /// The tensor, option or operation.
        what: String,
        /// What it could do.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// The bytes of a saved KV state do not fit this model.
    #[error("saved KV state: expected {expected}, found {found}")]
    State {
        /// Length or version expected.
        expected: String,
        /// Length or version found.
        found: String,
    },
    /// A weight's bytes could not be decoded.
    #[error("{name}: {source}")]
    Decode {
        /// The tensor.
        name: String,
        /// The reason.
        source: quant::Error,
    },
    /// A weight's bytes could not be read.
    #[error("{name}: {what}")]
    Read {
        /// The tensor.
        name: String,
        /// The reason.
        what: String,
    },
    /// The device stopped answering.
    #[error("{device}: {what}")]
    Lost {
        /// Which device.
        device: &'static str,
        /// What it reported.
        what: String,
    },
}
