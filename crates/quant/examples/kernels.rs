//! Times every product kernel beside the memory bandwidth measured in the same run.
//!
//! `cargo run --release -p quant --example kernels [threads] [type]` prints, per format: the rate at which
//! one activation row reads weights (GB/s, and as a share of a plain read of as much memory), the processor
//! cycles that a block takes when the weights lie in the second cache level, and the arithmetic rate with 512
//! and with 12 activation rows (GOP/s, two operations a weight). Times are processor times, the least of several
//! rounds.

use std::sync::Barrier;
use std::time::Duration;

use quant::TensorType;
use quant::dot::{ActFormat, Acts, Kernels, Out, RoundedRows, Scratch, Weights};

const TYPES: [TensorType; 9] = [
    TensorType::Q8_0,
    TensorType::Mxfp4,
    TensorType::Q2K,
    TensorType::Q4K,
    TensorType::Q6K,
    TensorType::Iq2Xxs,
    TensorType::F16,
    TensorType::BF16,
    TensorType::F32,
];
const COLS: usize = 4096;
/// Bytes per thread of the matrix that one activation row meets: far above any cache.
const BYTES: usize = 96 << 20;
/// Bytes of the matrix that lies in the second cache level.
const NEAR: usize = 384 << 10;

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |n| n.parse().expect("a number of threads"));
    let kernels = Kernels::detect();
    println!("{} kernels, {threads} threads, {COLS} columns", kernels.name());
    let clock = clock();
    println!("{:.2} GHz", clock / 1e9);
    let only = std::env::args().nth(2);
    for ty in TYPES.into_iter().filter(|ty| only.as_deref().is_none_or(|name| name == ty.name())) {
        let row_bytes = ty.row_bytes(COLS).expect("whole blocks");
        let rows = BYTES / row_bytes / 64 * 64;
        let read = rate(threads, rows * row_bytes, |bytes| {
            std::hint::black_box(read_all(bytes));
        });
        let one = products(kernels, ty, threads, rows, 1, 1);
        let cycles = |bytes: usize| {
            let (rows, calls) = (bytes / row_bytes / 8 * 8, 2 * NEAR / bytes);
            let blocks = calls * rows * COLS / ty.block_len();
            products(kernels, ty, threads, rows, 1, calls) * clock / blocks as f64
        };
        let block = cycles(NEAR);
        let weights = (512 * COLS) as f64;
        let ops = |n| 2.0 * weights * n as f64 / products(kernels, ty, threads, 512, n, 1) / 1e9;
        let gemv = (rows * row_bytes) as f64 / one / 1e9;
        let total = threads as f64;
        println!(
            "{:8} 1 row {:5.1} GB/s of {:5.1} ({:3.0} %) {block:6.1} cycles   512 rows {:5.0} GOP/s   12 rows {:5.0} GOP/s",
            ty.name(),
            gemv * total,
            read * total,
            100.0 * gemv / read,
            ops(512) * total,
            ops(12) * total
        );
    }
}

/// Seconds that each thread takes for its own matrix of `rows` rows times `n` activation rows.
fn products(
    kernels: Kernels,
    ty: TensorType,
    threads: usize,
    rows: usize,
    n: usize,
    calls: usize,
) -> f64 {
    let row_bytes = ty.row_bytes(COLS).expect("whole blocks");
    best(threads, || {
        let bytes = pattern(ty, rows * row_bytes);
        let x: Vec<f32> = (0..n * COLS).map(|i| (i % 61) as f32 / 30.0 - 1.0).collect();
        let format = ActFormat::of(ty);
        let mut q8 = format.block().map(|_| RoundedRows::with_capacity(format, n * COLS));
        if let Some(q8) = &mut q8 {
            q8.reset(n, COLS);
            for i in 0..n {
                kernels.quantize(&x[i * COLS..][..COLS], &mut q8.row_mut(i));
            }
        }
        let (mut y, mut scratch) = (vec![0f32; n * rows], Scratch::new());
        move || {
            let weights = Weights::new(ty, &bytes, rows, COLS).expect("whole rows");
            let acts = match &q8 {
                Some(rows) => Acts::Rounded { rows, index: None },
                None => Acts::F32 { values: &x, cols: COLS, stride: COLS, index: None },
            };
            for _ in 0..calls {
                kernels.matmul(&weights, &acts, &mut Out::new(&mut y, n, rows, rows), &mut scratch);
            }
        }
    })
}

/// Processor cycles in a second: a chain of multiplications and exclusive ors takes four a link on the processors of
/// today.
fn clock() -> f64 {
    const STEPS: u32 = 3_000_000;
    let seconds = best(1, || {
        || {
            let factor = std::hint::black_box(0x9E37_79B9_7F4A_7C15_u64);
            let chain = (0..STEPS).fold(1u64, |x, _| x.wrapping_mul(factor) ^ factor);
            std::hint::black_box(chain);
        }
    });
    4.0 * f64::from(STEPS) / seconds
}

/// GB/s of each thread.
fn rate(threads: usize, bytes: usize, work: impl Fn(&[u8]) + Sync) -> f64 {
    let seconds = best(threads, || {
        let (data, work) = (pattern(TensorType::I8, bytes), &work);
        move || work(&data)
    });
    bytes as f64 / seconds / 1e9
}

/// The least time, over several rounds, in which all threads together finish one call each.
fn best<W: FnMut()>(threads: usize, make: impl Fn() -> W + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let slowest_of = |round: &[Duration]| round.iter().max().copied().unwrap_or_default();
    let times: Vec<Vec<Duration>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut work = make();
                    (0..9)
                        .map(|_| {
                            barrier.wait();
                            let start = thread_time();
                            work();
                            thread_time() - start
                        })
                        .collect()
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a worker")).collect()
    });
    let rounds = (0..9).map(|r| slowest_of(&times.iter().map(|t| t[r]).collect::<Vec<_>>()));
    rounds.min().unwrap_or_default().as_secs_f64()
}

/// Processor time of this thread: what others do with the core meanwhile is not counted.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Bytes that are valid, finite and not subnormal weights of type `ty`: subnormal numbers would be
/// multiplied slowly.
fn pattern(ty: TensorType, bytes: usize) -> Vec<u8> {
    let byte = |i: usize| match ty {
        TensorType::Mxfp4 if i.is_multiple_of(17) => 120,
        _ => (i.wrapping_mul(0x9E37_79B1) >> 24) as u8 & 0x3F,
    };
    (0..bytes).map(byte).collect()
}

/// A plain read: as wide as the compiler makes it, with nothing else to do.
fn read_all(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for words in bytes.as_chunks::<128>().0 {
        for (sum, word) in sums.iter_mut().zip(words.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}
