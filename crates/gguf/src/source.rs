//! Where a file's bytes live: mapped, embedded or owned; and handles on parts of them.

use std::{
    fs::File,
    ops::Range,
    path::Path,
    sync::{Arc, OnceLock},
};

use memmap2::{Mmap, MmapMut};

use crate::{Error, Generate, TensorInfo, generated};

/// Every file's bytes start at a multiple of this, so that a tensor is at least as aligned as its
/// offset says, up to the default alignment.
const BASE_ALIGNMENT: usize = 64;

/// The bytes of one file.
pub(crate) enum Source {
    Mapped {
        map: Mmap,
        /// For reads that shall not map pages.
        file: File,
        label: String,
    },
    Static(&'static [u8]),
    /// `start` skips to the first aligned byte.
    Owned {
        bytes: Vec<u8>,
        start: usize,
    },
    /// One tensor, made when it is first read.
    Made {
        made: OnceLock<MmapMut>,
        generator: Arc<dyn Generate>,
        index: usize,
        info: TensorInfo,
    },
}

impl Source {
    /// Maps `path` read-only and shared: pages are the page cache's own, nothing is copied and
    /// nothing counts against this process's private memory.
    pub(crate) fn map(path: &Path) -> Result<Self, Error> {
        let io =
            |action| move |source| Error::Io { file: path.display().to_string(), action, source };
        let file = File::open(path).map_err(io("open it"))?;
        let len = file.metadata().map_err(io("read its size"))?.len();
        if len == 0 {
            // An empty file cannot be mapped; it parses as truncated.
            return Ok(Self::Static(&[]));
        }
        // SAFETY: the mapping is read-only. Its bytes are only ever read as `u8`, for which every
        // bit pattern is valid, so another process writing to the file can change what is computed
        // but not memory safety in the language's sense of a value's validity. What the mapping
        // cannot exclude is another process *shrinking* the file: touching a page past the new end
        // raises SIGBUS and ends the process, as with every mapped model file. `Gguf` documents it.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map it"))?;
        // Where the file system can, weights come in large pages, which spare the processor most of
        // its table walks. Elsewhere the kernel says no, and that is all.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self::Mapped { map, file, label: path.display().to_string() })
    }

    pub(crate) fn from_static(bytes: &'static [u8]) -> Self {
        if bytes.as_ptr().align_offset(BASE_ALIGNMENT) == 0 {
            Self::Static(bytes)
        } else {
            Self::aligned_copy(bytes)
        }
    }

    pub(crate) fn from_vec(bytes: Vec<u8>) -> Self {
        if bytes.as_ptr().align_offset(BASE_ALIGNMENT) == 0 {
            Self::Owned { bytes, start: 0 }
        } else {
            Self::aligned_copy(&bytes)
        }
    }

    fn aligned_copy(bytes: &[u8]) -> Self {
        let mut copy: Vec<u8> = Vec::with_capacity(bytes.len() + BASE_ALIGNMENT);
        let start = copy.as_ptr().align_offset(BASE_ALIGNMENT).min(BASE_ALIGNMENT);
        copy.resize(start, 0);
        copy.extend_from_slice(bytes);
        Self::Owned { bytes: copy, start }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped { map, .. } => map,
            Self::Static(bytes) => bytes,
            Self::Owned { bytes, start } => &bytes[*start..],
            Self::Made { made, generator, index, info } => {
                made.get_or_init(|| {
                    let len = info.n_bytes as usize;
                    // As with a vector, there is no going on without the memory.
                    let mut bytes = MmapMut::map_anon(len)
                        .unwrap_or_else(|error| panic!("{}: {len} bytes: {error}", info.name));
                    // Fewer, larger pages; a kernel without them says no, and that is all.
                    #[cfg(target_os = "linux")]
                    let _ = bytes.advise(memmap2::Advice::HugePage);
                    generated::tensor(&**generator, *index, info, &mut bytes);
                    bytes
                })
            }
        }
    }

    /// Number of bytes; makes none.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Made { info, .. } => info.n_bytes,
            _ => self.bytes().len() as u64,
        }
    }

    /// Copies the bytes from `at` on to `out` without keeping or mapping any: a file is read, a tensor
    /// that is made when it is needed is made in place.
    fn copy(&self, at: usize, out: &mut [u8]) -> Result<(), Error> {
        match self {
            #[cfg(unix)]
            Self::Mapped { file, label, .. } => {
                std::os::unix::fs::FileExt::read_exact_at(file, out, at as u64)
                    .map_err(|source| Error::Io { file: label.clone(), action: "read it", source })
            }
            Self::Made { made, generator, index, info }
                if made.get().is_none() && whole_blocks(info, at, out.len()) =>
            {
                generator.fill(*index, at as u64, out);
                Ok(())
            }
            _ => {
                out.copy_from_slice(&self.bytes()[at..at + out.len()]);
                Ok(())
            }
        }
    }

    /// Asks the kernel to start reading a range; a hint that may fail without harm.
    pub(crate) fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped { map, .. } = self {
            // The answer changes nothing: without read-ahead the pages come when they are touched.
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

fn whole_blocks(info: &TensorInfo, at: usize, n: usize) -> bool {
    let block = info.ty.block_bytes();
    at.is_multiple_of(block) && n.is_multiple_of(block)
}

/// A tensor's bytes: a cheap handle that keeps the file's mapping alive.
#[derive(Clone)]
pub struct TensorData {
    source: Arc<Source>,
    range: Range<usize>,
}

impl TensorData {
    /// `range` must lie within `source`.
    pub(crate) fn new(source: Arc<Source>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end as u64 <= source.len());
        Self { source, range }
    }

    /// A tensor that is made when it is first read.
    pub(crate) fn generated(generator: Arc<dyn Generate>, index: usize, info: TensorInfo) -> Self {
        let range = 0..info.n_bytes as usize;
        let source = Source::Made { made: OnceLock::new(), generator, index, info };
        Self { source: Arc::new(source), range }
    }

    /// A tensor made in memory, for example of parts cut out of a file's tensors.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { source: Arc::new(Source::from_vec(bytes)), range }
    }

    /// The bytes, aligned to the smaller of the file's alignment and 64.
    ///
    /// A read may wait for the disk. If another process has shortened a mapped file meanwhile, a
    /// read past the new end ends this process with SIGBUS.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.source.bytes()[self.range.clone()]
    }

    /// How many bytes there are; reads and makes none.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }

    /// Copies the bytes from `at` on to `out`. Unlike [`bytes`](Self::bytes) it leaves nothing in this
    /// process's memory: a file is read, not mapped in, and what is made when it is needed is made in
    /// place, if `at` and the length are whole blocks. For weights that go to another memory, a piece
    /// at a time, from several threads.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the file cannot be read, or another process has shortened it.
    ///
    /// # Panics
    ///
    /// When the range leaves the tensor.
    pub fn copy_to(&self, at: usize, out: &mut [u8]) -> Result<(), Error> {
        assert!(at + out.len() <= self.range.len(), "a range within a tensor");
        self.source.copy(self.range.start + at, out)
    }

    /// The part `range` of this tensor, for example one expert of a stack.
    ///
    /// # Panics
    ///
    /// When `range` leaves the tensor.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.range.len(),
            "a range within a tensor"
        );
        let start = self.range.start;
        Self { source: self.source.clone(), range: start + range.start..start + range.end }
    }

    /// Asks the kernel to start reading these bytes from disk, and returns at once.
    pub fn will_need(&self) {
        self.source.will_need(self.range.clone());
    }

    /// Reads one byte of every page, so that later reads find them in memory.
    pub fn touch(&self) {
        const PAGE: usize = 4096;
        let bytes = self.bytes();
        let sum =
            bytes.iter().step_by(PAGE).chain(bytes.last()).fold(0u8, |s, b| s.wrapping_add(*b));
        // The sum is worth nothing, but the reads must not be optimised away.
        std::hint::black_box(sum);
    }
}

impl AsRef<[u8]> for TensorData {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl std::fmt::Debug for TensorData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorData").field("range", &self.range).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_bytes_are_aligned() {
        for skew in 0..4 {
            let bytes: Vec<u8> = (0..100u8).collect();
            let source = Source::aligned_copy(&bytes[skew..]);
            assert_eq!(source.bytes(), &bytes[skew..]);
            assert_eq!(source.bytes().as_ptr().align_offset(BASE_ALIGNMENT), 0);
        }
    }

    #[test]
    fn handles_outlive_their_file_and_cross_threads() {
        let source = Arc::new(Source::from_vec((0..200u8).collect()));
        let data = TensorData::new(source.clone(), 10..20);
        drop(source);
        let part = data.slice(2..5);
        let thread = std::thread::spawn(move || part.bytes().to_vec());
        assert_eq!(thread.join().unwrap(), [12, 13, 14]);
        assert_eq!(data.bytes().len(), 10);
    }
}
