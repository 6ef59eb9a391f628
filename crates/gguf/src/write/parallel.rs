//! Tensors in any order, from many threads at once.

use std::{
    fs::File,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{AtomicFile, Layout, atomic::io_error, wrong};
use crate::{Error, TensorInfo};

/// Fills the tensors of a [`Layout`] by position. The file has its full size from the start, and
/// [`write_at`](Self::write_at) takes `&self`: threads write disjoint parts without a lock.
#[derive(Debug)]
pub struct ParallelWriter {
    out: AtomicFile,
    tensors: Vec<TensorInfo>,
    written: Vec<AtomicU64>,
}

impl ParallelWriter {
    /// Starts a file that appears as `path` when [`finish`](Self::finish) succeeds, and leaves
    /// nothing behind otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn create(path: &Path, layout: Layout) -> Result<Self, Error> {
        let out = AtomicFile::create(path)?;
        let file_bytes = layout.file_bytes();
        let (header, tensors) = layout.seal();
        let written = tensors.iter().map(|_| AtomicU64::new(0)).collect();
        out.file().set_len(file_bytes).map_err(|e| io_error(path, "reserve its size", e))?;
        write_all_at(out.file(), &header, 0).map_err(|e| io_error(path, "write it", e))?;
        Ok(Self { out, tensors, written })
    }

    /// The tensors in order of their indices; offsets count from the start of the file.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes `bytes` at `offset` within the tensor of index `tensor`.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when that leaves the tensor, [`Error::Io`].
    pub fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let Some(info) = self.tensors.get(tensor) else {
            return Err(wrong("a tensor index below", self.tensors.len(), tensor));
        };
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > info.n_bytes) {
            let what = format!("tensor {:?}", info.name);
            return Err(wrong(&what, info.n_bytes, format!("{offset} + {len} bytes")));
        }
        write_all_at(self.out.file(), bytes, info.offset + offset)
            .map_err(|e| io_error(self.out.target(), "write it", e))?;
        self.written[tensor].fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that as many bytes were written as each tensor has, and gives the file its name.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when a tensor is incomplete, [`Error::Io`].
    pub fn finish(self) -> Result<(), Error> {
        for (info, written) in self.tensors.iter().zip(&self.written) {
            let written = written.load(Ordering::Relaxed);
            if written != info.n_bytes {
                return Err(wrong(&format!("tensor {:?}", info.name), info.n_bytes, written));
            }
        }
        self.out.commit()
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}
