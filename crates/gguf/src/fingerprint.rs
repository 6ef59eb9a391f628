//! A hash that names a file's weights without reading all of them.

use std::ops::Range;

use crate::{Gguf, TensorInfo, generated};

/// Bytes hashed from the middle of each tensor; smaller tensors are hashed whole.
const SAMPLE_BYTES: usize = 4096;

/// Hashes every part's header, metadata and directory, then the samples in directory order.
pub(crate) fn of(gguf: &Gguf) -> [u8; 32] {
    let (shards, tensors) = (&gguf.shards, gguf.tensors());
    if let Some(generator) = &gguf.generator {
        return of_generated(gguf, &**generator);
    }
    // All the reads are asked for before the first is waited for: on a cold disk that is the
    // difference between one seek after another and a full queue.
    for info in tensors {
        shards[info.shard].source.will_need(sample(info));
    }
    let mut hasher = blake3::Hasher::new();
    for shard in shards {
        let bytes = shard.source.bytes();
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&(shard.header_bytes as u64).to_le_bytes());
        hasher.update(&bytes[..shard.header_bytes]);
    }
    for info in tensors {
        hasher.update(&shards[info.shard].source.bytes()[sample(info)]);
    }
    *hasher.finalize().as_bytes()
}

/// Hashes the header and the start of every tensor.
fn of_generated(gguf: &Gguf, generator: &dyn crate::Generate) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(generated::header(&gguf.shards));
    for (i, info) in gguf.tensors().iter().enumerate() {
        hasher.update(&generated::sample(generator, i, info, SAMPLE_BYTES));
    }
    *hasher.finalize().as_bytes()
}

fn sample(info: &TensorInfo) -> Range<usize> {
    let (start, len) = (info.offset as usize, info.n_bytes as usize);
    let taken = len.min(SAMPLE_BYTES);
    let first = start + (len - taken) / 2;
    first..first + taken
}
