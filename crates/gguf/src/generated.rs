//! Files that exist nowhere: a real header, and tensors made when they are first read.

use std::sync::Arc;

use crate::{Error, Gguf, Layout, TensorInfo, file::Shard, header::Header, source::Source};

/// Makes tensors' bytes.
pub trait Generate: Send + Sync {
    /// Fills `out`, whole blocks, with the bytes of tensor `tensor` (its place in the layout) from
    /// byte `offset` on, which is the start of a block. Called from several threads at once.
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]);
}

/// Bytes that one thread makes at a time.
const PART_BYTES: usize = 1 << 20;

impl Gguf {
    /// A file of this layout whose tensors `generator` makes. A tensor's bytes are made by all
    /// processors when its data is first read, and freed with the last handle on them: a backend
    /// that uploads weights never holds more than those it is uploading, one that computes in host
    /// memory holds each once. `label` takes the path's place in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn generated(
        label: &str,
        layout: Layout,
        generator: Arc<dyn Generate>,
    ) -> Result<Self, Error> {
        let file_bytes = layout.file_bytes();
        let (bytes, _) = layout.seal();
        let header = Header::parse(label, &bytes, file_bytes, 0)?;
        let source = Source::from_vec(bytes);
        let mut gguf = Self::assemble(label.into(), vec![(label.to_owned(), source, header)])?;
        gguf.generator = Some(generator);
        Ok(gguf)
    }
}

/// All bytes of a tensor.
pub(crate) fn tensor(generator: &dyn Generate, index: usize, info: &TensorInfo, out: &mut [u8]) {
    let block = info.ty.block_bytes();
    let part = (PART_BYTES / block).max(1) * block;
    let parts = std::sync::Mutex::new(out.chunks_mut(part).enumerate());
    let work = || {
        loop {
            // A generator that panicked leaves the iterator whole.
            let next = parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some((i, out)) = next else { return };
            generator.fill(index, (i * part) as u64, out);
        }
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..n_threads.min(info.n_bytes as usize / part + 1) {
            scope.spawn(work);
        }
        work();
    });
}

/// The first bytes of a tensor, at least `n` where it has so many.
pub(crate) fn sample(
    generator: &dyn Generate,
    index: usize,
    info: &TensorInfo,
    n: usize,
) -> Vec<u8> {
    let whole = n.next_multiple_of(info.ty.block_bytes()).min(info.n_bytes as usize);
    let mut bytes = vec![0; whole];
    generator.fill(index, 0, &mut bytes);
    bytes
}

/// The header bytes of the only shard.
pub(crate) fn header(shards: &[Shard]) -> &[u8] {
    shards.first().map_or(&[], |shard| shard.source.bytes())
}

#[cfg(test)]
mod tests {
    use quant::TensorType;

    use super::*;

    /// Every byte is a function of the tensor and its place.
    struct Pattern;

    fn byte(tensor: usize, at: u64) -> u8 {
        (tensor as u64 * 31 + at * 7 + at / 1000) as u8
    }

    impl Generate for Pattern {
        fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) {
            for (i, b) in out.iter_mut().enumerate() {
                *b = byte(tensor, offset + i as u64);
            }
        }
    }

    fn gguf(name: &str) -> Gguf {
        let mut layout = Layout::new(32).unwrap();
        layout.metadata("general.name", name).unwrap();
        layout.tensor("small", TensorType::F32, &[3]).unwrap();
        layout.tensor("large", TensorType::Q8_0, &[64, 100_000]).unwrap();
        Gguf::generated(name, layout, Arc::new(Pattern)).unwrap()
    }

    #[test]
    fn tensors_are_made_on_first_use() {
        let gguf = gguf("made");
        for (i, info) in gguf.tensors().iter().enumerate() {
            let data = gguf.data(info);
            let part = data.slice(4..8);
            assert_eq!(data.bytes().len() as u64, info.n_bytes);
            assert!(data.bytes().iter().zip(0..).all(|(b, at)| *b == byte(i, at)), "{}", info.name);
            assert_eq!(part.bytes(), &data.bytes()[4..8]);
            assert_eq!(data.bytes().as_ptr().align_offset(64), 0);
        }
        assert_eq!(gguf.metadata().required::<&str>("general.name").unwrap(), "made");
    }

    #[test]
    fn pieces_are_made_in_place() {
        let gguf = gguf("made");
        let data = gguf.data(&gguf.tensors()[1]);
        let mut piece = vec![0; 34 * 3];
        data.copy_to(34 * 2, &mut piece).unwrap();
        assert!(piece.iter().zip(34 * 2..).all(|(b, at)| *b == byte(1, at)));
        // Half a block is made with its whole tensor.
        data.slice(0..100).copy_to(17, &mut piece[..20]).unwrap();
        assert!(piece[..20].iter().zip(17..).all(|(b, at)| *b == byte(1, at)));
    }

    #[test]
    fn the_fingerprint_is_that_of_header_and_content() {
        assert_eq!(gguf("a").fingerprint(), gguf("a").fingerprint());
        assert_ne!(gguf("a").fingerprint(), gguf("b").fingerprint());
    }
}
