//! Mutates valid files and demands an answer: a file in good order or an error, never a panic, and
//! never an allocation that the file's size does not justify.

use std::{
    alloc::{GlobalAlloc, Layout as AllocLayout, System},
    collections::BTreeMap,
    ops::ControlFlow,
    sync::atomic::{AtomicUsize, Ordering},
};

use gguf::{Error, Gguf, Layout, Value, Writer};
use quant::TensorType;

/// What a run did.
pub(crate) struct Report {
    /// Mutants that were valid files.
    pub(crate) accepted: u64,
    /// Mutants refused, by the kind of error.
    pub(crate) refused: BTreeMap<String, u64>,
}

/// Opens `iterations` mutants of the seed files, all functions of `seed`.
///
/// # Panics
///
/// When a mutant panics the reader, gives tensors outside the file, or makes the reader allocate
/// far more than the file holds; the message has the iteration.
pub(crate) fn run(seed: u64, iterations: u64) -> Report {
    let files = seed_files();
    for bytes in &files {
        check(bytes.clone()).expect("the seed files are valid");
    }
    let mut report = Report { accepted: 0, refused: BTreeMap::new() };
    for i in 0..iterations {
        let mut random = Random(seed ^ i.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let mut bytes = files[random.below(files.len())].clone();
        for _ in 0..1 + random.below(3) {
            mutate(&mut random, &mut bytes, &files);
        }
        let outcome = std::panic::catch_unwind(|| check(bytes));
        match outcome.unwrap_or_else(|_| panic!("seed {seed}, iteration {i} panicked")) {
            Ok(()) => report.accepted += 1,
            Err(error) => *report.refused.entry(kind(&error)).or_default() += 1,
        }
    }
    report
}

/// Reads a file and everything in it.
fn check(bytes: Vec<u8>) -> Result<(), Error> {
    let len = bytes.len();
    LARGEST.store(0, Ordering::Relaxed);
    let opened = Gguf::from_vec(bytes, "mutant");
    // A tensor or an entry of a few bytes in the file takes at most some hundred in memory.
    let (largest, limit) = (LARGEST.load(Ordering::Relaxed), 64 * len + 65_536);
    assert!(largest <= limit, "one allocation of {largest} bytes for a file of {len}");
    let gguf = match opened {
        Ok(gguf) => gguf,
        Err(error) => {
            assert!(error.to_string().contains("mutant") && error.file() == "mutant");
            return Err(error);
        }
    };
    assert_eq!(gguf.file_bytes(), len as u64);
    let mut ends = Vec::new();
    for info in gguf.tensors() {
        let data = gguf.data(info);
        assert_eq!(data.bytes().len() as u64, info.n_bytes);
        assert!(info.offset + info.n_bytes <= len as u64 && info.n_elements() > 0);
        assert_eq!(gguf.tensor(&info.name), Some(info));
        ends.push((info.offset, info.offset + info.n_bytes));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "tensors overlap");
    let metadata = gguf.metadata();
    for (key, value) in metadata.iter() {
        assert_eq!(metadata.get(key).map(Value::value_type), Some(value.value_type()));
        // Each getter answers with a value or an error that names the key.
        let errors = [
            metadata.u32(key).err(),
            metadata.i64(key).err(),
            metadata.f32(key).err(),
            metadata.bool(key).err(),
            metadata.str(key).err(),
            metadata.arr_u32(key).err(),
            metadata.arr_f32(key).err(),
            metadata.arr_bool(key).err(),
            metadata.arr_str(key).err(),
        ];
        for error in errors.into_iter().flatten() {
            assert!(matches!(error, Error::WrongType { .. }), "{error}");
        }
    }
    assert_eq!(gguf.fingerprint(), gguf.fingerprint());
    assert_eq!(gguf.touch(|_, _| ControlFlow::Continue(())), ControlFlow::Continue(()));
    Ok(())
}

/// Valid files: every value type, several element types, two alignments, versions 2 and 3.
fn seed_files() -> Vec<Vec<u8>> {
    let plain = build(32, &[("a.weight", TensorType::F32, &[4, 3]), ("b", TensorType::I32, &[7])]);
    let blocks = build(
        64,
        &[
            ("token_embd.weight", TensorType::F16, &[32, 2]),
            ("blk.0.ffn_gate_exps.weight", TensorType::Iq2Xxs, &[256, 2, 2]),
            ("blk.0.ffn_down_exps.weight", TensorType::Mxfp4, &[64, 1, 1, 2]),
            // One bit apart.
            ("blk.0.attn_q_a.weight", TensorType::Q8_0, &[32, 3]),
            ("blk.1.attn_q_a.weight", TensorType::Q8_0, &[32, 3]),
        ],
    );
    let mut version_2 = plain.clone();
    version_2[4] = 2;
    vec![plain, blocks, version_2, build(32, &[])]
}

fn build(alignment: u64, tensors: &[(&str, TensorType, &[u64])]) -> Vec<u8> {
    let mut layout = Layout::new(alignment).unwrap();
    let entries: [(&str, Value); 14] = [
        ("general.architecture", "deepseek4".into()),
        ("deepseek4.block_count", 6u32.into()),
        ("deepseek4.attention.layer_norm_rms_epsilon", 1e-6f32.into()),
        ("deepseek4.expert_weights_norm", true.into()),
        ("deepseek4.attention.compress_ratios", vec![0i32, 4, 128].into()),
        ("deepseek4.swiglu_clamp_exp", vec![10.0f32; 3].into()),
        ("tokenizer.ggml.tokens", ["a", "b", "ünï"].map(str::to_owned).to_vec().into()),
        ("bytes", vec![1u8, 2, 3].into()),
        ("flags", vec![true, false].into()),
        ("wide", vec![u64::MAX].into()),
        ("small", (-3i8).into()),
        ("short", 9u16.into()),
        ("double", 0.5f64.into()),
        ("signed", (-5i64).into()),
    ];
    for (key, value) in entries {
        layout.metadata(key, value).unwrap();
    }
    for (name, ty, dims) in tensors {
        layout.tensor(name, *ty, dims).unwrap();
    }
    let mut writer = Writer::new(Vec::new(), layout).unwrap();
    for (name, ty, dims) in tensors {
        let rows: u64 = dims[1..].iter().product();
        let bytes = ty.row_bytes(dims[0] as usize).unwrap() * rows as usize;
        writer.write_tensor(name, &vec![0x5A; bytes]).unwrap();
    }
    writer.into_inner().unwrap()
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, files: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.extend(&files[0]);
    }
    let len = bytes.len();
    let at = random.below(len);
    let span = 1 + random.below(24.min(len - at));
    match random.below(10) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.next() as u8,
        3 => bytes.truncate(at),
        4 => overwrite(bytes, at, &(random.interesting(len) as u32).to_le_bytes()),
        // Counts, lengths, dimensions and offsets are 64 bits wide.
        5 | 6 => overwrite(bytes, at, &random.interesting(len).to_le_bytes()),
        7 => {
            let other = &files[random.below(files.len())];
            let from = random.below(other.len());
            let piece = other[from..].iter().take(span).copied().collect::<Vec<u8>>();
            let end = if random.below(2) == 0 { at } else { at + span };
            bytes.splice(at..end, piece);
        }
        8 => {
            bytes.drain(at..at + span);
        }
        _ => {
            let copy = bytes[at..at + span].to_vec();
            let to = random.below(len);
            bytes.splice(to..to, copy);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let n = with.len().min(bytes.len() - at);
    bytes[at..at + n].copy_from_slice(&with[..n]);
}

/// The name of the error's variant.
fn kind(error: &Error) -> String {
    let debug = format!("{error:?}");
    debug.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Numbers that length checks get wrong.
    fn interesting(&mut self, len: usize) -> u64 {
        let n = self.next();
        match n % 9 {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => i64::MAX as u64,
            4 => 1 << (n >> 8 & 63),
            5 => (1 << (n >> 8 & 63)) - 1,
            6 => len as u64,
            7 => n >> 8 & 0xFF,
            _ => u64::MAX - (n >> 8 & 0xFF),
        }
    }
}

/// The largest single allocation since the counter was cleared.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counter is only read.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: AllocLayout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: AllocLayout) {
        // SAFETY: `pointer` came from `alloc` above, hence from the system, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
