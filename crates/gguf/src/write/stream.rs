//! Tensors in order, to anything that can be written to.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use super::{AtomicFile, LABEL, Layout, wrong};
use crate::{Error, TensorInfo};

/// Streams the tensors of a [`Layout`] in its order.
#[derive(Debug)]
pub struct Writer<W: Write> {
    sink: W,
    file: String,
    tensors: Vec<TensorInfo>,
    /// The tensor being written, and how many of its bytes are.
    current: usize,
    written: u64,
    /// Offset in the file.
    position: u64,
    alignment: u64,
}

impl Writer<BufWriter<AtomicFile>> {
    /// Starts a file that appears as `path` when [`finish`](Self::finish) succeeds, and leaves
    /// nothing behind otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn create(path: &Path, layout: Layout) -> Result<Self, Error> {
        let sink = BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?);
        Self::with_label(sink, layout, path.display().to_string())
    }

    /// Writes what is left of the padding and gives the file its name.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when a tensor is missing, [`Error::Io`].
    pub fn finish(self) -> Result<(), Error> {
        let file = self.file.clone();
        let sink = self.into_inner()?;
        let sink = sink.into_inner().map_err(|e| io_error(&file, e.into_error()))?;
        sink.commit()
    }
}

impl<W: Write> Writer<W> {
    /// Starts writing to `sink`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn new(sink: W, layout: Layout) -> Result<Self, Error> {
        Self::with_label(sink, layout, LABEL.to_owned())
    }

    fn with_label(sink: W, layout: Layout, file: String) -> Result<Self, Error> {
        let alignment = layout.alignment;
        let (header, tensors) = layout.seal();
        let mut writer =
            Self { sink, file, tensors, current: 0, written: 0, position: 0, alignment };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Writes the next tensor, which must be `name`, whole.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when it is another tensor's turn or the size is wrong, [`Error::Io`].
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        match self.tensors.get(self.current) {
            Some(next) if self.written == 0 && next.name == name => {
                if next.n_bytes == bytes.len() as u64 {
                    self.write_part(bytes)
                } else {
                    Err(self.wrong(&format!("tensor {name:?}"), next.n_bytes, bytes.len()))
                }
            }
            Some(next) => Err(self.wrong("the next tensor", &next.name, name)),
            None => Err(self.wrong("the next tensor", "the end", name)),
        }
    }

    /// Writes the next bytes of the current tensor, which may not be more than it lacks.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] or [`Error::Io`].
    pub fn write_part(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(tensor) = self.tensors.get(self.current) else {
            return Err(self.wrong("the next tensor", "the end", format!("{} bytes", bytes.len())));
        };
        let (n_bytes, left) = (tensor.n_bytes, tensor.n_bytes - self.written);
        if bytes.len() as u64 > left {
            let what = format!("the rest of tensor {:?}", tensor.name);
            return Err(self.wrong(&what, left, bytes.len()));
        }
        self.put(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == n_bytes {
            let padding = self.position.next_multiple_of(self.alignment) - self.position;
            self.put(&vec![0; padding as usize])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Checks that all tensors are there, flushes and returns the sink.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when a tensor is missing, [`Error::Io`].
    pub fn into_inner(mut self) -> Result<W, Error> {
        if let Some(missing) = self.tensors.get(self.current) {
            let what = format!("tensor {:?}", missing.name);
            return Err(self.wrong(&what, missing.n_bytes, self.written));
        }
        self.sink.flush().map_err(|e| io_error(&self.file, e))?;
        Ok(self.sink)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sink.write_all(bytes).map_err(|e| io_error(&self.file, e))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn wrong(&self, what: &str, expected: impl ToString, found: impl ToString) -> Error {
        let mut error = wrong(what, expected, found);
        if let Error::Write { file, .. } = &mut error {
            file.clone_from(&self.file);
        }
        error
    }
}

fn io_error(file: &str, source: std::io::Error) -> Error {
    Error::Io { file: file.to_owned(), action: "write it", source }
}
