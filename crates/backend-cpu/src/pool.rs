//! Threads that wait for one parallel region after another.
//!
//! A decode step has about a thousand regions of a few microseconds, so workers spin between them,
//! briefly, and then park; the caller is a worker too. Work is divided into as many parts as there are
//! threads, by index alone. A thread takes its own part first and then any that nobody has begun, so
//! that a region never waits for a worker that the system has given no processor to: on a machine with
//! other work, regions last as long as the work does, and not as long as a scheduler's turn.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

use crate::topology;

/// Turns of the waiting loop before a thread parks: some tens of microseconds, more than the serial
/// stretches between two regions and far less than a scheduler's quantum.
const SPINS: u32 = 2_000;

/// The number of threads, and whether each worker keeps to its own core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Threads in all, the caller's included; `None` for one per logical processor: decoding two-bit weights is bound by
    /// instructions, of which two threads get more out of a core.
    pub threads: Option<usize>,
    /// Ties every worker to one core. The caller's thread is left where it is.
    pub pin: bool,
}

/// See the module's head.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What a region runs: the function gets its thread's index.
type Job = dyn Fn(usize) + Sync;

struct Shared {
    /// Counts regions; a change is the signal to start. Written by the caller alone.
    epoch: AtomicU32,
    /// The region's function, valid from the change of `epoch` until `left` is zero.
    job: UnsafeCell<Option<*const Job>>,
    /// The last region in which each part was begun.
    begun: Vec<AtomicU32>,
    /// Parts of the region that are not finished.
    left: AtomicU32,
    stop: AtomicBool,
    /// Workers that wait without spinning.
    parked: Vec<AtomicBool>,
    /// The caller, where it waits without spinning for `left` to become zero.
    waiting: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the one field that is not already shareable. The caller writes it while no part
// is left (so no worker reads it) and publishes it by `epoch`; a worker reads it only after it has begun
// a part of the current region, and what it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is used only while the caller keeps the function alive.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts the workers.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(options: PoolOptions) -> std::io::Result<Self> {
        let cores = topology::processors();
        let threads = options.threads.unwrap_or(cores.len()).max(1);
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            job: UnsafeCell::new(None),
            begun: (0..threads).map(|_| AtomicU32::new(0)).collect(),
            left: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            waiting: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let core = cores.get(index).copied().filter(|_| options.pin);
            let worker =
                std::thread::Builder::new().name(format!("keid-cpu-{index}")).spawn(move || {
                    if let Some(core) = core {
                        topology::pin(core);
                    }
                    shared.work(index);
                })?;
            // An error above drops `pool`, which stops the workers that exist.
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads in all, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(i)` once for every part `i`, of which there are as many as threads, each on thread
    /// `i` if that is awake in time. Returns when all have finished. A panic in any of them is raised
    /// here, after that.
    pub fn run(&mut self, job: impl Fn(usize) + Sync) {
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        let job: &(dyn Fn(usize) + Sync) = &job;
        // SAFETY: this only extends a lifetime. `finish` below returns after every part is finished, on
        // every path out of this function, and no worker touches the job without a part.
        let job: *const Job =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        // SAFETY: no part is left and `&mut self` excludes another caller, so nobody reads `job`.
        unsafe { *shared.job.get() = Some(job) };
        shared.left.store(self.threads() as u32, Ordering::Relaxed);
        // Sequentially consistent, as are the worker's accesses: either it sees the new epoch before
        // it parks, or it is seen parked here.
        let epoch = shared.epoch.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.take_parts(epoch, 0);
        shared.finish();
        if let Some(payload) = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its job's panics, so there is nothing to learn from the result.
            drop(worker.join());
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen, &self.parked[index - 1]);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            self.take_parts(seen, index);
        }
    }

    /// Runs part `own` of region `epoch`, then every part that nobody has begun meanwhile.
    fn take_parts(&self, epoch: u32, own: usize) {
        let n = self.begun.len();
        for part in (0..n).map(|i| (own + i) % n) {
            // A worker that comes late finds that all parts of its region were begun long ago: the
            // region before the one it asks for is no longer anybody's last.
            let before = epoch.wrapping_sub(1);
            let (begin, late) = (Ordering::AcqRel, Ordering::Relaxed);
            if self.begun[part].compare_exchange(before, epoch, begin, late).is_ok() {
                self.run_part(part);
            }
        }
    }

    /// Runs a part that this thread has begun, and counts it off.
    fn run_part(&self, part: usize) {
        // SAFETY: the epoch changed after the caller wrote `job`, and the caller keeps it until this
        // part has been counted off below.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe {
            if let Some(job) = *self.job.get() {
                (*job)(part);
            }
        }));
        if let Err(payload) = result {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1
            && self.caller_parked.swap(false, Ordering::SeqCst)
        {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = waiting.as_ref() {
                thread.unpark();
            }
        }
    }

    /// Waits until the epoch differs from `seen`.
    fn next_epoch(&self, seen: u32, parked: &AtomicBool) -> u32 {
        for _ in 0..SPINS {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        loop {
            parked.store(true, Ordering::SeqCst);
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                parked.store(false, Ordering::SeqCst);
                return epoch;
            }
            std::thread::park();
        }
    }

    /// Waits until every part of the region is finished.
    fn finish(&self) {
        for _ in 0..SPINS {
            if self.left.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        loop {
            self.caller_parked.store(true, Ordering::SeqCst);
            if self.left.load(Ordering::SeqCst) == 0 {
                self.caller_parked.store(false, Ordering::SeqCst);
                return;
            }
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(PoolOptions { threads: Some(threads), pin: false }).unwrap()
    }

    #[test]
    fn every_index_runs_once_per_region() {
        for threads in [1, 2, 5] {
            let mut pool = pool(threads);
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..2_000 {
                pool.run(|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2_000));
        }
    }

    #[test]
    fn results_are_seen_by_the_caller_after_pauses() {
        let mut pool = pool(3);
        let total = AtomicUsize::new(0);
        for round in 1..=20 {
            // Long enough for the workers to park.
            std::thread::sleep(Duration::from_millis(2));
            pool.run(|i| {
                if i == 2 {
                    // Long enough for the caller to park.
                    std::thread::sleep(Duration::from_millis(2));
                }
                total.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(total.load(Ordering::Relaxed), 3 * round);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = pool(3);
        for bad in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|i| assert_ne!(i, bad, "thread {bad} fails"));
            }));
            assert!(result.is_err(), "the panic of thread {bad} was lost");
            let ran = AtomicUsize::new(0);
            pool.run(|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn more_threads_than_cores_make_progress() {
        let mut pool = pool(16);
        let start = Instant::now();
        for _ in 0..50 {
            pool.run(|_| {});
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
