//! Files that appear whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::Error;

/// A file under a temporary name beside its target, renamed to it by [`AtomicFile::commit`] and
/// removed when dropped before that.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    target: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// Creates the temporary file. The target, if there is one, stays as it is until the commit.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn create(target: &Path) -> Result<Self, Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // Two writers of one target must not meet in one temporary file.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (process, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let temporary = target.with_file_name(format!(".{name}.{process}-{n}.partial"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|source| io_error(&temporary, "create it", source))?;
        Ok(Self { file, target: target.to_owned(), temporary, committed: false })
    }

    /// Flushes to disk and renames to the target.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the temporary file is gone then.
    pub fn commit(mut self) -> Result<(), Error> {
        self.file.sync_all().map_err(|e| io_error(&self.target, "flush it to disk", e))?;
        fs::rename(&self.temporary, &self.target)
            .map_err(|e| io_error(&self.target, "rename the finished file to it", e))?;
        self.committed = true;
        Ok(())
    }

    /// The path that the file will have.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // There is nobody to tell: the error that led here is already on its way.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

pub(super) fn io_error(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::Io { file: path.display().to_string(), action, source }
}
