//! Synthetic models: files of a given shape with random, numerically sane weights, so that
//! full-size speed can be measured without the real weights.
//!
//! Blocks are made from a random stream addressed by position: any thread can make any part of
//! any tensor, and a seed gives the same bytes whatever the number of threads.

mod blocks;
mod metadata;
mod rng;
mod tokenizer;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use gguf::{Generate, Gguf, Layout, ParallelWriter};
use half::f16;
use model::{Config, Preset};
use quant::TensorType;

use crate::layout::{Content, TensorSpec, tensors};
use crate::recipe::Recipe;
use rng::Words;

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The shape.
    pub preset: Preset,
    /// The types.
    pub recipe: Recipe,
    /// Layers to keep, from the first; all of the preset's without it.
    pub n_layers: Option<usize>,
    /// The seed of all weights.
    pub seed: u64,
}

/// Tensors of so many bytes are made by all processors together.
const PARALLEL_BYTES: usize = 16 << 20;

/// A synthetic model, ready to be written to a file or into a backend's memory.
#[derive(Clone, Debug)]
pub struct Synth {
    config: Config,
    preset: Preset,
    seed: u64,
    tensors: Vec<TensorSpec>,
}

/// Why a synthetic model cannot be made or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More layers than the preset has, or none.
    #[error("preset `{preset}` has 1 to {max} layers, not {found}")]
    Layers {
        /// The preset's name.
        preset: &'static str,
        /// Its layers.
        max: usize,
        /// What was asked for.
        found: usize,
    },
    /// A vocabulary that cannot spell every text.
    #[error("a vocabulary of {found} is too small: bytes and special tokens need {least}")]
    Vocabulary {
        /// Size asked for.
        found: usize,
        /// Smallest size that works.
        least: usize,
    },
    /// A count that the file format cannot hold.
    #[error("{found} does not fit in 32 bits")]
    Count {
        /// The count.
        found: usize,
    },
    /// A storage type that random blocks are not made for.
    #[error("tensor `{tensor}`: cannot make random {ty} blocks")]
    Type {
        /// The tensor.
        tensor: String,
        /// The type's name.
        ty: &'static str,
    },
    /// The disk is too full.
    #[error("{}: the file takes {}, the disk has {} free", path.display(), gb(needed), gb(free))]
    DiskSpace {
        /// The file.
        path: PathBuf,
        /// Size of the file.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// The directory cannot be looked at.
    #[error("{}: cannot read the free space: {source}", path.display())]
    FreeSpace {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Stopped on request; nothing is left behind.
    #[error("stopped")]
    Stopped,
    /// Writing failed.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
}

/// What the caller of [`Synth::write`] sees and says meanwhile.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of tensors written so far.
    pub written: AtomicU64,
    /// Set to stop.
    pub stop: AtomicBool,
}

/// Bytes made and written at once: small enough to stay in a core's cache, large enough for the
/// disk.
const PART_BYTES: usize = 1 << 20;

impl Synth {
    /// Lays a model out.
    ///
    /// # Errors
    /// [`Error::Layers`].
    pub fn new(request: Request) -> Result<Self, Error> {
        let Request { preset, recipe, n_layers, seed } = request;
        let mut config = preset.config();
        let max = config.layers.len();
        let n_layers = n_layers.unwrap_or(max);
        if n_layers == 0 || n_layers > max {
            return Err(Error::Layers { preset: preset.name(), max, found: n_layers });
        }
        config.layers.truncate(n_layers);
        config.expert_clamp.truncate(n_layers);
        config.shared_clamp.truncate(n_layers);
        config.n_hash_layers = config.n_hash_layers.min(n_layers);
        config.name = format!("Keid synthetic {} {}", preset.name(), recipe.name());
        let tensors = tensors(&config, recipe);
        Ok(Self { config, preset, seed, tensors })
    }

    /// The model's configuration, as a written file states it.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Makes blocks `first..` of tensor `index`, as many as `out` holds; values, where the type
    /// has no blocks.
    ///
    /// # Errors
    /// [`Error::Type`].
    ///
    /// # Panics
    /// If there is no such tensor or `out` is not whole blocks.
    pub fn fill(&self, index: usize, first: u64, out: &mut [u8]) -> Result<(), Error> {
        let tensor = &self.tensors[index];
        assert!(out.len().is_multiple_of(tensor.ty.block_bytes()), "whole blocks are filled");
        let words = Words::new(self.seed, &tensor.name);
        let made = match tensor.content {
            Content::Random { sigma } => blocks::random(tensor.ty, words, first, sigma, out),
            Content::Uniform { centre, half_width } => {
                uniform(tensor.ty, words, first, (centre, half_width), out)
            }
            Content::HashTable { n_experts } => {
                hash_table(words, first, tensor.dims[0] as u64, n_experts as u64, out);
                Ok(())
            }
        };
        made.map_err(|ty| Error::Type { tensor: tensor.name.clone(), ty })
    }

    /// The model as a file that exists nowhere: its weights are made when a backend loads them.
    ///
    /// # Errors
    /// As [`write`](Self::write) for what cannot be laid out.
    pub fn into_gguf(self) -> Result<Gguf, Error> {
        for index in 0..self.tensors.len() {
            // No block is made; a type that has no random blocks is found.
            self.fill(index, 0, &mut [])?;
        }
        let (label, layout) = (self.config.name.clone(), self.layout()?);
        Ok(Gguf::generated(&label, layout, Arc::new(self))?)
    }

    /// Bytes of the written file.
    ///
    /// # Errors
    /// As [`write`](Self::write) for what cannot be laid out.
    pub fn file_bytes(&self) -> Result<u64, Error> {
        Ok(self.layout()?.file_bytes())
    }

    /// Writes the file with `n_threads` threads. It appears under its name when it is complete.
    ///
    /// # Errors
    /// A full disk, found before anything is written; a stop; whatever writing says.
    pub fn write(
        &self,
        path: &Path,
        n_threads: NonZeroUsize,
        progress: &Progress,
    ) -> Result<(), Error> {
        let layout = self.layout()?;
        check_space(path, layout.file_bytes())?;
        let writer = ParallelWriter::create(path, layout)?;
        let parts = self.parts();
        let next = AtomicUsize::new(0);
        let outcome = std::thread::scope(|scope| {
            let work = || self.write_parts(&writer, &parts, &next, progress);
            let workers: Vec<_> = (0..n_threads.get()).map(|_| scope.spawn(work)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| match worker.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            workers.into_iter().map(join).fold(Ok(()), Result::and)
        });
        outcome?;
        Ok(writer.finish()?)
    }

    fn layout(&self) -> Result<Layout, Error> {
        let mut layout = Layout::new(gguf::DEFAULT_ALIGNMENT)?;
        metadata::declare(&mut layout, &self.config, self.preset)?;
        for tensor in &self.tensors {
            let dims: Vec<u64> = tensor.dims.iter().map(|dim| *dim as u64).collect();
            layout.tensor(&tensor.name, tensor.ty, &dims)?;
        }
        Ok(layout)
    }

    /// The file cut into parts of whole blocks, in file order.
    fn parts(&self) -> Vec<Part> {
        let cut = |(tensor, spec): (usize, &TensorSpec)| {
            let (total, block) = (spec.bytes(), spec.ty.block_bytes() as u64);
            let size = (PART_BYTES as u64 / block).max(1) * block;
            let part = move |i| Part { tensor, offset: i * size, len: size.min(total - i * size) };
            (0..total.div_ceil(size)).map(part)
        };
        self.tensors.iter().enumerate().flat_map(cut).collect()
    }

    fn write_parts(
        &self,
        writer: &ParallelWriter,
        parts: &[Part],
        next: &AtomicUsize,
        progress: &Progress,
    ) -> Result<(), Error> {
        let mut buffer = Vec::new();
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            if progress.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            buffer.resize(part.len as usize, 0);
            let block = self.tensors[part.tensor].ty.block_bytes() as u64;
            let made = self.fill(part.tensor, part.offset / block, &mut buffer);
            let written =
                made.and_then(|()| Ok(writer.write_at(part.tensor, part.offset, &buffer)?));
            if written.is_err() {
                // The other threads' work is in vain.
                progress.stop.store(true, Ordering::Relaxed);
            }
            written?;
            progress.written.fetch_add(part.len, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Generate for Synth {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) {
        let block = self.tensors[tensor].ty.block_bytes();
        let threads = match out.len() {
            0..PARALLEL_BYTES => 1,
            _ => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let part = (out.len() / block).div_ceil(threads).max(1) * block;
        let made = |i: usize, out: &mut [u8]| {
            let first = (offset as usize + i * part) / block;
            if let Err(error) = Synth::fill(self, tensor, first as u64, out) {
                unreachable!("`into_gguf` has tried every type: {error}");
            }
        };
        std::thread::scope(|scope| {
            for (i, out) in out.chunks_mut(part).enumerate() {
                scope.spawn(move || made(i, out));
            }
        });
    }
}

/// Gigabytes, as disks are sold.
fn gb(bytes: &u64) -> String {
    format!("{:.2} GB", *bytes as f64 / 1e9)
}

/// A run of whole blocks of one tensor, in bytes.
#[derive(Clone, Copy, Debug)]
struct Part {
    tensor: usize,
    offset: u64,
    len: u64,
}

/// Values `first..`, even between `centre ± half_width`.
fn uniform(
    ty: TensorType,
    words: Words,
    first: u64,
    (centre, half_width): (f32, f32),
    out: &mut [u8],
) -> Result<(), &'static str> {
    let value = |i: u64| {
        let unit = (words.get(i) >> 40) as f32 / (1u32 << 24) as f32;
        centre + half_width * (2.0 * unit - 1.0)
    };
    let each = |size: usize, out: &mut [u8], put: &dyn Fn(f32, &mut [u8])| {
        for (i, bytes) in out.chunks_exact_mut(size).enumerate() {
            put(value(first + i as u64), bytes);
        }
    };
    match ty {
        TensorType::F32 => each(4, out, &|v, bytes| bytes.copy_from_slice(&v.to_le_bytes())),
        TensorType::F16 => {
            each(2, out, &|v, bytes| bytes.copy_from_slice(&f16::from_f32(v).to_le_bytes()));
        }
        other => return Err(other.name()),
    }
    Ok(())
}

/// Values `first..` of the table of experts by token: `used` different experts a token, and
/// over any `n_experts` consecutive tokens that start a round every expert equally often.
fn hash_table(words: Words, first: u64, used: u64, n_experts: u64, out: &mut [u8]) {
    for (i, bytes) in out.chunks_exact_mut(4).enumerate() {
        let i = first + i as u64;
        let (token, choice) = (i / used, i % used);
        // In a round, tokens are permuted by one affine map and their choices lie one stride
        // apart. Factors prime to the number of experts make both one-to-one.
        let (round, place) = (token / n_experts, token % n_experts);
        let bits = words.get(round);
        let factor = coprime(bits & 0xFFFF, n_experts);
        let stride = coprime(bits >> 16 & 0xFFFF, n_experts);
        let expert = (place * factor + choice * stride + (bits >> 32)) % n_experts;
        bytes.copy_from_slice(&(expert as u32).to_le_bytes());
    }
}

/// The first number from `start` modulo `n` on that has no factor in common with `n`.
fn coprime(start: u64, n: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (start % n..).find(|candidate| gcd(*candidate, n) == 1).unwrap_or(1)
}

fn check_space(path: &Path, needed: u64) -> Result<(), Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let free = crate::disk::free_space(directory)
        .map_err(|source| Error::FreeSpace { path: directory.to_owned(), source })?;
    if free < needed {
        return Err(Error::DiskSpace { path: path.to_owned(), needed, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
