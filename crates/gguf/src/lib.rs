//! The GGUF container: header, metadata, tensor directory, mapping, writing.
//!
//! [`Gguf::open`] maps a file (or every shard of a split one), checks all of its structure and
//! hands out tensors as [`TensorData`]: cheap handles on mapped bytes. Nothing is copied and
//! nothing larger than the metadata is allocated. [`Layout`] declares a file to be written;
//! [`Writer`] streams its tensors and [`ParallelWriter`] fills them from many threads.
//!
//! A file is hostile until proven otherwise: every length is checked against the bytes that are
//! there before anything is allocated, and what is wrong comes back as an [`Error`] that names
//! file, key or tensor, what was expected and what was found.
//!
//! This crate knows the container alone: no key of any architecture and no tensor's name means
//! anything here.

mod cursor;
mod error;
mod file;
mod fingerprint;
mod generated;
mod header;
mod metadata;
mod source;
mod split;
mod value;
mod write;

pub use error::Error;
pub use file::{Gguf, TensorInfo};
pub use generated::Generate;
pub use metadata::{FromValue, Metadata, Mismatch};
pub use source::TensorData;
pub use value::{Array, Value, ValueType};
pub use write::{AtomicFile, Layout, ParallelWriter, Writer};

/// Offsets in files without a `general.alignment` key are multiples of this.
pub const DEFAULT_ALIGNMENT: u64 = 32;
