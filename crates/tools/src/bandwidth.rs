//! The memory bandwidth of this machine, measured: the roof that decoding is held against.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Threads that read, each its own part.
    pub n_threads: NonZeroUsize,
    /// Bytes read in a pass by all threads together. Several times the last-level cache, or the
    /// cache is measured.
    pub bytes: usize,
    /// Passes; the fastest counts, since whatever disturbs a pass can only slow it down.
    pub n_passes: usize,
}

impl Probe {
    /// The measurement that benchmarks quote: the best of 5 reads of 2 GiB.
    pub fn standard(n_threads: NonZeroUsize) -> Self {
        Self { n_threads, bytes: 2 << 30, n_passes: 5 }
    }

    /// A second's worth, for reports: the best of 4 reads of 512 MiB.
    pub fn quick(n_threads: NonZeroUsize) -> Self {
        Self { n_threads, bytes: 512 << 20, n_passes: 4 }
    }

    /// Reads and returns the best pass in GB/s (10⁹ bytes). Takes `bytes` of memory meanwhile.
    pub fn measure(&self) -> f64 {
        let n_threads = self.n_threads.get();
        let n_words = (self.bytes / size_of::<u64>() / n_threads).max(LANES);
        // Readers take the time themselves: a clock beside them may be kept waiting for a core.
        let gate = Barrier::new(n_threads);
        let readers: Vec<Vec<Pass>> = thread::scope(|scope| {
            let spawn = |i| {
                let gate = &gate;
                scope.spawn(move || read_passes(i as u64, n_words, self.n_passes, gate))
            };
            let readers: Vec<_> = (0..n_threads).map(spawn).collect();
            readers.into_iter().filter_map(|reader| reader.join().ok()).collect()
        });
        // A pass lasts from the first reader's start to the last one's end.
        let lasted = |pass: usize| {
            let start = readers.iter().map(|passes| passes[pass].0).min()?;
            let end = readers.iter().map(|passes| passes[pass].1).max()?;
            Some(end.duration_since(start))
        };
        let best = (0..self.n_passes.max(1)).filter_map(lasted).min().unwrap_or(Duration::MAX);
        (n_words * n_threads * size_of::<u64>()) as f64 / best.as_secs_f64() / 1e9
    }
}

/// Independent sums, enough to keep every load port busy.
const LANES: usize = 32;

/// When one reader began and ended a pass.
type Pass = (Instant, Instant);

fn read_passes(thread: u64, n_words: usize, n_passes: usize, gate: &Barrier) -> Vec<Pass> {
    // Written values differ from zero, which would be one shared page read again and again.
    let words: Vec<u64> = (0..n_words as u64).map(|i| i ^ (thread + 1)).collect();
    let pass = |_| {
        gate.wait();
        let start = Instant::now();
        black_box(sum(black_box(&words)));
        (start, Instant::now())
    };
    (0..n_passes.max(1)).map(pass).collect()
}

fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; LANES];
    let (chunks, rest) = words.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_a_plausible_bandwidth() {
        let threads = NonZeroUsize::new(2).unwrap();
        let speed = Probe { n_threads: threads, bytes: 64 << 20, n_passes: 2 }.measure();
        assert!((0.1..10_000.0).contains(&speed), "{speed} GB/s");
    }

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (0..1003).collect();
        assert_eq!(sum(&words), 1002 * 1003 / 2);
    }
}
