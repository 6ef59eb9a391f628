//! Writing GGUF version 3.
//!
//! A [`Layout`] declares everything up front: metadata in order, then each tensor's name, type and
//! dimensions. From it come all offsets, so that the data can be streamed in order ([`Writer`]) or
//! written anywhere by many threads ([`ParallelWriter`]). Files appear under their name only when
//! they are complete ([`AtomicFile`]).

mod atomic;
mod parallel;
mod stream;

use std::collections::HashSet;

use quant::TensorType;

use crate::{
    DEFAULT_ALIGNMENT, Error, TensorInfo, Value,
    header::{check_alignment, tensor_bytes},
    value::write_string,
};

pub use atomic::AtomicFile;
pub use parallel::ParallelWriter;
pub use stream::Writer;

const VERSION: u32 = 3;

/// What a file will hold, apart from the tensors' data.
#[derive(Clone, Debug)]
pub struct Layout {
    alignment: u64,
    keys: HashSet<String>,
    n_entries: u64,
    metadata: Vec<u8>,
    names: HashSet<String>,
    /// Offsets count from the start of the data section until [`Layout::seal`].
    tensors: Vec<TensorInfo>,
    data_bytes: u64,
}

impl Layout {
    /// An empty file whose tensors start at multiples of `alignment` bytes. An alignment other than
    /// 32 is recorded as `general.alignment`.
    ///
    /// # Errors
    ///
    /// [`Error::Alignment`] unless `alignment` is a power of two.
    pub fn new(alignment: u64) -> Result<Self, Error> {
        check_alignment(LABEL, alignment)?;
        let mut layout = Self {
            alignment,
            keys: HashSet::new(),
            n_entries: 0,
            metadata: Vec::new(),
            names: HashSet::new(),
            tensors: Vec::new(),
            data_bytes: 0,
        };
        if alignment != DEFAULT_ALIGNMENT {
            // At most 2^30, as checked above.
            layout.push("general.alignment", &Value::U32(alignment as u32))?;
        }
        Ok(layout)
    }

    /// Appends a metadata entry.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateKey`]; [`Error::Write`] for a `general.alignment` that is not the
    /// layout's.
    pub fn metadata(&mut self, key: &str, value: impl Into<Value>) -> Result<(), Error> {
        let value = value.into();
        if key == "general.alignment" {
            return if value.as_integer() == Some(i128::from(self.alignment)) {
                if self.keys.contains(key) { Ok(()) } else { self.push(key, &value) }
            } else {
                Err(wrong("general.alignment", self.alignment, value))
            };
        }
        self.push(key, &value)
    }

    fn push(&mut self, key: &str, value: &Value) -> Result<(), Error> {
        if !self.keys.insert(key.to_owned()) {
            return Err(Error::DuplicateKey { file: LABEL.to_owned(), key: key.to_owned() });
        }
        write_string(key, &mut self.metadata);
        self.metadata.extend(value.value_type().id().to_le_bytes());
        value.write(&mut self.metadata);
        self.n_entries += 1;
        Ok(())
    }

    /// Appends a tensor and returns its index. `dims` are in ggml's order, the row length first.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateTensor`], [`Error::DimensionCount`], [`Error::Dimensions`] or
    /// [`Error::RowLength`].
    pub fn tensor(&mut self, name: &str, ty: TensorType, dims: &[u64]) -> Result<usize, Error> {
        if !(1..=4).contains(&dims.len()) {
            let (file, tensor) = (LABEL.to_owned(), name.to_owned());
            return Err(Error::DimensionCount { file, tensor, found: dims.len() as u32 });
        }
        let n_bytes = tensor_bytes(LABEL, name, ty, dims)?;
        let end = self.data_bytes.checked_add(n_bytes);
        let Some(end) = end.and_then(|end| end.checked_next_multiple_of(self.alignment)) else {
            let (file, tensor) = (LABEL.to_owned(), name.to_owned());
            return Err(Error::Dimensions { file, tensor, dims: dims.to_vec() });
        };
        if !self.names.insert(name.to_owned()) {
            let (file, tensor) = (LABEL.to_owned(), name.to_owned());
            return Err(Error::DuplicateTensor { file, tensor });
        }
        let (name, dims, offset) = (name.to_owned(), dims.to_vec(), self.data_bytes);
        self.tensors.push(TensorInfo { name, ty, dims, n_bytes, offset, shard: 0 });
        self.data_bytes = end;
        Ok(self.tensors.len() - 1)
    }

    /// Number of tensors declared.
    #[must_use]
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of the finished file, padding after the last tensor included.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.header().len() as u64 + self.data_bytes
    }

    /// The bytes before the data section, padded to the alignment.
    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.metadata.len() + 96 * self.tensors.len() + 64);
        out.extend(b"GGUF");
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_entries.to_le_bytes());
        out.extend(&self.metadata);
        for t in &self.tensors {
            write_string(&t.name, &mut out);
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.ty.ggml_id().to_le_bytes());
            out.extend(t.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        out
    }

    /// The header, and the tensors with offsets from the start of the file.
    pub(crate) fn seal(self) -> (Vec<u8>, Vec<TensorInfo>) {
        let header = self.header();
        let mut tensors = self.tensors;
        for t in &mut tensors {
            t.offset += header.len() as u64;
        }
        (header, tensors)
    }
}

/// Stands for the file in messages while it has no name yet.
const LABEL: &str = "a file to be written";

fn wrong(what: &str, expected: impl ToString, found: impl ToString) -> Error {
    Error::Write {
        file: LABEL.to_owned(),
        what: what.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
