//! The device as operations see it: buffers, launches, and steps that are recorded once and
//! replayed.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backend::{Error, Result};
use rustc_hash::{FxHashMap, FxHasher};

pub use crate::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use crate::driver::{Description, Recording};

pub(crate) const NAME: &str = "cuda";

/// Memory that nobody holds any more, but that stages which wait may still use.
struct Dropped {
    driver: Arc<dyn Driver>,
    memory: Mutex<Vec<DevicePtr>>,
}

impl Dropped {
    fn memory(&self) -> MutexGuard<'_, Vec<DevicePtr>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self) {
        self.memory().drain(..).for_each(|ptr| self.driver.free(ptr));
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.free();
    }
}

/// Device memory, given back some time after it is dropped.
pub struct Buffer {
    dropped: Arc<Dropped>,
    ptr: DevicePtr,
    bytes: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:#x}", self.bytes, self.ptr.0)
    }
}

impl Buffer {
    /// Where it begins.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.dropped.memory().push(self.ptr);
    }
}

/// A device and its recordings.
pub struct Gpu {
    driver: Arc<dyn Driver>,
    recorder: RefCell<Recorder>,
    dropped: Arc<Dropped>,
}

impl Gpu {
    pub(crate) fn new(driver: Arc<dyn Driver>) -> Self {
        let dropped = Dropped { driver: Arc::clone(&driver), memory: Mutex::default() };
        Self { driver, recorder: RefCell::default(), dropped: Arc::new(dropped) }
    }

    /// What the device is.
    pub fn description(&self) -> &Description {
        self.driver.description()
    }

    /// Compute capability, 90 for 9.0.
    pub fn arch(&self) -> u32 {
        self.description().arch
    }

    /// Multiprocessors.
    pub fn sms(&self) -> usize {
        self.description().sms as usize
    }

    /// Whether kernels with inline PTX run here.
    pub fn has_ptx(&self) -> bool {
        self.description().ptx
    }

    /// Zeroed memory.
    ///
    /// # Errors
    /// There is not enough.
    pub fn alloc(&self, label: &'static str, bytes: usize) -> Result<Buffer> {
        let bytes = bytes.max(16);
        // What was recorded may hold the address of memory that this allocation reuses.
        self.recorder.borrow_mut().clear(&*self.driver)?;
        self.dropped.free();
        let ptr = self.driver.alloc(label, bytes)?;
        let buffer = Buffer { dropped: Arc::clone(&self.dropped), ptr, bytes };
        self.driver.zero(ptr, bytes)?;
        Ok(buffer)
    }

    /// Copies bytes to `buffer`, from byte `at` on.
    ///
    /// # Errors
    /// The device is lost.
    ///
    /// # Panics
    /// When the bytes do not fit: a programmer's error.
    pub fn upload(&self, buffer: &Buffer, at: usize, bytes: &[u8]) -> Result<()> {
        assert!(at + bytes.len() <= buffer.bytes, "{} bytes at {at} of {buffer:?}", bytes.len());
        self.settle()?;
        self.driver.upload(buffer.ptr.add(at), bytes)
    }

    /// Waits, and copies bytes from `buffer`, from byte `at` on.
    ///
    /// # Errors
    /// The device is lost.
    ///
    /// # Panics
    /// When the buffer ends before: a programmer's error.
    pub fn download(&self, buffer: &Buffer, at: usize, bytes: &mut [u8]) -> Result<()> {
        assert!(at + bytes.len() <= buffer.bytes, "{} bytes at {at} of {buffer:?}", bytes.len());
        self.settle()?;
        self.driver.download(buffer.ptr.add(at), bytes)
    }

    /// The driver, with nothing half recorded.
    pub(crate) fn settled(&self) -> Result<&dyn Driver> {
        self.settle()?;
        Ok(&*self.driver)
    }

    /// Runs a kernel: now, as part of a recording, or as part of what is about to be replayed.
    ///
    /// # Errors
    /// No such kernel, or the device is lost.
    pub fn launch<A: Args>(&self, kernel: &Kernel, launch: Launch, args: &A) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.recorder.borrow_mut().launch(&*self.driver, kernel, launch, args_bytes(args))
    }

    /// Begins a step whose launches depend on `key` and on addresses alone. `None`: a step that is
    /// not worth recording.
    pub(crate) fn begin(&self, key: Option<StepKey>) -> Result<()> {
        let mut recorder = self.recorder.borrow_mut();
        recorder.abandon(&*self.driver)?;
        recorder.mode = key.map_or(Mode::Now, Mode::Begun);
        Ok(())
    }

    /// Ends a step.
    pub(crate) fn submit(&self) -> Result<()> {
        self.recorder.borrow_mut().submit(&*self.driver)
    }

    fn settle(&self) -> Result<()> {
        self.recorder.borrow_mut().settle(&*self.driver)
    }
}

/// A kernel's parameter as the driver takes it.
pub(crate) fn args_bytes<A: Args>(args: &A) -> &[u8] {
    // SAFETY: `Args` promises plain bytes without padding; the slice lives as long as `args`.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(args).cast::<u8>(), size_of::<A>()) }
}

/// Everything about a step, beside addresses, that its launches depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StepKey {
    pub(crate) rows: u32,
    pub(crate) spans: u32,
    pub(crate) span_rows_max: u32,
    pub(crate) logits: u32,
    pub(crate) context: u32,
}

/// Shapes of steps that are kept before all are forgotten: a recording takes some megabytes.
const RECORDINGS_MAX: usize = 128;

/// Steps seen so far, and what is going on.
#[derive(Default)]
struct Recorder {
    mode: Mode,
    seen: FxHashMap<(StepKey, u64), Seen>,
}

#[derive(Default)]
enum Mode {
    /// Launches run at once.
    #[default]
    Now,
    /// A step has begun; its first launch tells whether it is known.
    Begun(StepKey),
    /// Launches are being recorded.
    Recording { key: (StepKey, u64), hash: u64 },
    /// Launches are only compared with what was recorded.
    Replaying { recording: Recording, wanted: u64, hash: u64 },
}

enum Seen {
    /// It has run once, so every kernel is loaded and recording cannot fail for that.
    Once,
    Recorded {
        recording: Recording,
        hash: u64,
    },
}

fn mix(hash: u64, kernel: &Kernel, launch: Launch, args: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    (hash, kernel.name.as_ptr() as usize, launch, args).hash(&mut hasher);
    hasher.finish()
}

impl Recorder {
    fn launch(
        &mut self,
        driver: &dyn Driver,
        kernel: &Kernel,
        launch: Launch,
        args: &[u8],
    ) -> Result<()> {
        if let Mode::Begun(step) = self.mode {
            let key = (step, mix(0, kernel, launch, args));
            self.mode = match self.seen.get(&key) {
                None => {
                    self.seen.insert(key, Seen::Once);
                    Mode::Now
                }
                Some(Seen::Once) => {
                    driver.record()?;
                    Mode::Recording { key, hash: 0 }
                }
                Some(Seen::Recorded { recording, hash }) => {
                    Mode::Replaying { recording: *recording, wanted: *hash, hash: 0 }
                }
            };
        }
        match &mut self.mode {
            Mode::Recording { hash, .. } => {
                *hash = mix(*hash, kernel, launch, args);
                driver.launch(kernel, launch, args)
            }
            Mode::Replaying { hash, .. } => {
                *hash = mix(*hash, kernel, launch, args);
                Ok(())
            }
            Mode::Now | Mode::Begun(_) => driver.launch(kernel, launch, args),
        }
    }

    fn submit(&mut self, driver: &dyn Driver) -> Result<()> {
        match std::mem::take(&mut self.mode) {
            Mode::Now | Mode::Begun(_) => Ok(()),
            Mode::Recording { key, hash } => {
                let recording = driver.finish()?;
                self.seen.insert(key, Seen::Recorded { recording, hash });
                driver.replay(recording)
            }
            Mode::Replaying { recording, wanted, hash } if wanted == hash => {
                driver.replay(recording)
            }
            Mode::Replaying { .. } => Err(Error::Unsupported {
                device: NAME,
                what: "a step of a known shape".to_owned(),
                expected: "the operations that were recorded for it".to_owned(),
                found: "others".to_owned(),
            }),
        }
    }

    /// Before anything but launches: what was recorded of an unfinished step runs.
    fn settle(&mut self, driver: &dyn Driver) -> Result<()> {
        match std::mem::take(&mut self.mode) {
            Mode::Now | Mode::Begun(_) => Ok(()),
            Mode::Recording { .. } => {
                let recording = driver.finish()?;
                let replayed = driver.replay(recording);
                driver.forget(recording);
                replayed
            }
            Mode::Replaying { .. } => Err(Error::Unsupported {
                device: NAME,
                what: "a step of a known shape".to_owned(),
                expected: "`submit` before anything is read".to_owned(),
                found: "a read".to_owned(),
            }),
        }
    }

    /// Before a step begins: an earlier one that was not submitted has failed, and is forgotten.
    fn abandon(&mut self, driver: &dyn Driver) -> Result<()> {
        if let Mode::Recording { .. } = std::mem::take(&mut self.mode) {
            driver.forget(driver.finish()?);
        }
        if self.seen.len() > RECORDINGS_MAX {
            self.clear(driver)?;
        }
        Ok(())
    }

    fn clear(&mut self, driver: &dyn Driver) -> Result<()> {
        self.settle(driver)?;
        for (_, seen) in self.seen.drain() {
            if let Seen::Recorded { recording, .. } = seen {
                driver.forget(recording);
            }
        }
        Ok(())
    }
}
