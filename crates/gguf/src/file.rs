//! An opened file: metadata, tensor directory and the bytes behind it.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use quant::TensorType;

use crate::{
    Error, Generate, Metadata, TensorData, fingerprint, header::Header, source::Source, split,
};

/// Bytes read between two reports of [`Gguf::touch`].
const TOUCH_STEP: u64 = 64 << 20;

/// A GGUF file, or all parts of a split one, checked and mapped.
///
/// Mapped files are read-only and shared with the page cache. They must not be shortened while they
/// are open: a read past the new end ends the process with SIGBUS.
pub struct Gguf {
    path: PathBuf,
    pub(crate) shards: Vec<Shard>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    fingerprint: OnceLock<[u8; 32]>,
    /// Makes the tensors of a file that exists nowhere.
    pub(crate) generator: Option<Arc<dyn Generate>>,
}

/// One directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub ty: TensorType,
    /// Dimensions in ggml's order: the first is the length of a row (a matrix's fan-in).
    pub dims: Vec<u64>,
    /// Bytes of the data.
    pub n_bytes: u64,
    /// Offset of the data from the start of its file.
    pub offset: u64,
    /// Which part of a split file holds it; 0 for a single file.
    pub shard: usize,
}

impl TensorInfo {
    /// Weights in one row.
    #[must_use]
    pub fn cols(&self) -> u64 {
        self.dims[0]
    }

    /// Rows: the product of all dimensions but the first.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    /// Weights in all.
    #[must_use]
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// The bytes of one file and what its header said.
pub(crate) struct Shard {
    pub(crate) source: Arc<Source>,
    /// Bytes of header, metadata and directory.
    pub(crate) header_bytes: usize,
}

impl Gguf {
    /// Opens a file. When it is one part of a split file, opens all parts, which lie beside it.
    ///
    /// # Errors
    ///
    /// Any [`Error`]: the file cannot be read, or its structure is not what GGUF promises.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let label = path.display().to_string();
        let source = Source::map(path)?;
        let header = Header::parse(&label, source.bytes(), source.len(), 0)?;
        let parts = match split::count(&header.metadata)? {
            1 => vec![(label, source, header)],
            n => split::open_all(path, n)?,
        };
        Self::assemble(path.to_owned(), parts)
    }

    /// Reads a file embedded in the program. `label` takes the path's place in messages.
    ///
    /// The bytes are used in place when they are aligned to 64, and copied otherwise.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); a part of a split file is refused.
    pub fn from_static(bytes: &'static [u8], label: &str) -> Result<Self, Error> {
        Self::from_source(Source::from_static(bytes), label)
    }

    /// Reads a file held in memory. `label` takes the path's place in messages.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); a part of a split file is refused.
    pub fn from_vec(bytes: Vec<u8>, label: &str) -> Result<Self, Error> {
        Self::from_source(Source::from_vec(bytes), label)
    }

    fn from_source(source: Source, label: &str) -> Result<Self, Error> {
        let header = Header::parse(label, source.bytes(), source.len(), 0)?;
        let count = split::count(&header.metadata)?;
        if count != 1 {
            return Err(Error::Split {
                file: label.to_owned(),
                what: "parts of a file in memory",
                expected: "1".to_owned(),
                found: count.to_string(),
            });
        }
        Self::assemble(PathBuf::from(label), vec![(label.to_owned(), source, header)])
    }

    /// Joins parts in order. Metadata is that of the first; tensors' names must be unique over all.
    pub(crate) fn assemble(
        path: PathBuf,
        parts: Vec<(String, Source, Header)>,
    ) -> Result<Self, Error> {
        let mut gguf = Self {
            path,
            shards: Vec::with_capacity(parts.len()),
            version: 0,
            metadata: Metadata::default(),
            tensors: Vec::new(),
            index: HashMap::new(),
            fingerprint: OnceLock::new(),
            generator: None,
        };
        for (i, (file, source, header)) in parts.into_iter().enumerate() {
            for info in header.tensors {
                let place = gguf.tensors.len();
                if gguf.index.insert(info.name.clone(), place).is_some() {
                    return Err(Error::DuplicateTensor { file, tensor: info.name });
                }
                gguf.tensors.push(info);
            }
            if i == 0 {
                gguf.metadata = header.metadata;
                gguf.version = header.version;
            }
            let header_bytes = header.data_start as usize;
            gguf.shards.push(Shard { source: Arc::new(source), header_bytes });
        }
        split::check_tensor_count(&gguf.metadata, gguf.tensors.len())?;
        Ok(gguf)
    }

    /// The metadata; of a split file, that of its first part.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in the order of the directory.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of a tensor of this file.
    ///
    /// # Panics
    ///
    /// When `info` is another file's and points outside this one.
    #[must_use]
    pub fn data(&self, info: &TensorInfo) -> TensorData {
        if let Some(generator) = &self.generator {
            let index = self.index.get(&info.name).copied();
            let index = index.unwrap_or_else(|| panic!("{} is another file's", info.name));
            return TensorData::generated(generator.clone(), index, info.clone());
        }
        let start = info.offset as usize;
        let range = start..start + info.n_bytes as usize;
        TensorData::new(self.shards[info.shard].source.clone(), range)
    }

    /// The path that was opened, or the label of a file in memory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all parts; for tensors made on demand, of what they would be.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let made = self.generator.is_some().then(|| self.tensors.iter().map(|t| t.n_bytes).sum());
        self.shards.iter().map(|s| s.source.len()).sum::<u64>() + made.unwrap_or(0)
    }

    /// Number of files: 1, or the parts of a split file.
    #[must_use]
    pub fn n_shards(&self) -> usize {
        self.shards.len()
    }

    /// The GGUF version: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A name for these weights: a hash over header, tensor directory and a sample of every tensor.
    ///
    /// Equal files have equal fingerprints. It costs one small read a tensor, never a read of the
    /// whole file, so it tells files apart that were made differently; it is no defence against one
    /// that was forged.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.fingerprint.get_or_init(|| fingerprint::of(self))
    }

    /// Asks the kernel to start reading the whole file from disk, and returns at once.
    pub fn will_need(&self) {
        for shard in &self.shards {
            shard.source.will_need(0..shard.source.bytes().len());
        }
    }

    /// Reads the file from disk once, so that later reads find it in memory as far as that goes.
    ///
    /// `progress` is told (bytes done, bytes in all) every 64 MiB and can stop the reading.
    pub fn touch(&self, mut progress: impl FnMut(u64, u64) -> ControlFlow<()>) -> ControlFlow<()> {
        let total = self.shards.iter().map(|s| s.source.len()).sum();
        let mut done = 0;
        for shard in &self.shards {
            let len = shard.source.bytes().len();
            for start in (0..len).step_by(TOUCH_STEP as usize) {
                let end = len.min(start + TOUCH_STEP as usize);
                // The next step is on its way while this one is read.
                shard.source.will_need(start..len.min(end + TOUCH_STEP as usize));
                TensorData::new(shard.source.clone(), start..end).touch();
                done += (end - start) as u64;
                progress(done, total)?;
            }
        }
        ControlFlow::Continue(())
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("shards", &self.shards.len())
            .field("metadata", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
