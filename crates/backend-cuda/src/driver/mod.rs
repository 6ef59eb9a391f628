//! What this backend needs of a GPU: memory, launches and recordings on one queue.
//!
//! [`nvidia`] is the real one. The tests bring another that runs the same kernels on the CPU.

mod lanes;
pub mod nvidia;

use backend::Result;

/// An address in device memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No address.
    pub const NULL: Self = Self(0);

    /// The address `bytes` further on.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "named as on raw pointers")]
    pub fn add(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A kernel by its file's stem below `cuda/` and its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// `norm` for `cuda/norm.cu`.
    pub module: &'static str,
    /// The function.
    pub name: &'static str,
}

impl Kernel {
    /// The kernel `name` of `cuda/<module>.cu`.
    pub const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name }
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Launch {
    /// `blocks` blocks of `block` threads.
    pub fn new(blocks: usize, block: u32) -> Self {
        Self { grid: [blocks as u32, 1, 1], block, shared: 0 }
    }

    /// Blocks in two dimensions.
    pub fn grid2(x: usize, y: usize, block: u32) -> Self {
        Self { grid: [x as u32, y as u32, 1], block, shared: 0 }
    }

    /// Blocks in three dimensions.
    pub fn grid3(x: usize, y: usize, z: usize, block: u32) -> Self {
        Self { grid: [x as u32, y as u32, z as u32], block, shared: 0 }
    }

    /// The same with dynamic shared memory.
    #[must_use]
    pub fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes as u32;
        self
    }
}

/// The one parameter of a kernel, passed by value.
///
/// # Safety
/// The type is `repr(C)`, matches the kernel's struct, and has no padding, so that its bytes can be
/// compared and hashed.
pub unsafe trait Args: Copy {}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The product's name.
    pub name: String,
    /// Compute capability: 90 for 9.0.
    pub arch: u32,
    /// Multiprocessors.
    pub sms: u32,
    /// Largest dynamic shared memory of a block, in bytes.
    pub shared_max: usize,
    /// Whether kernels with inline PTX run; not on the emulator.
    pub ptx: bool,
}

/// A recorded sequence of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording(pub usize);

/// Writes the first bytes of a piece, given its number and room for it, and says how many.
pub type Fill<'a> = dyn Fn(usize, &mut [u8]) -> Result<usize> + Sync + 'a;
/// Queues what uses a piece, given its number and where it will lie until that is done.
pub type Sent<'a> = dyn Fn(usize, DevicePtr) -> Result<()> + Sync + 'a;

/// A device with one queue. Everything but `download` and `wait` returns before the work is done.
pub trait Driver: Send + Sync {
    /// What this device is.
    fn description(&self) -> &Description;

    /// Free and total bytes of memory.
    ///
    /// # Errors
    /// The device is lost.
    fn memory(&self) -> Result<(u64, u64)>;

    /// Takes memory of undefined content.
    ///
    /// # Errors
    /// There is not enough.
    fn alloc(&self, label: &'static str, bytes: usize) -> Result<DevicePtr>;

    /// Gives memory back after everything queued before is done.
    fn free(&self, ptr: DevicePtr);

    /// Fills memory with zeros.
    ///
    /// # Errors
    /// The device is lost.
    fn zero(&self, to: DevicePtr, bytes: usize) -> Result<()>;

    /// Copies from the host; `from` may be reused on return.
    ///
    /// # Errors
    /// The device is lost.
    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()>;

    /// Copies `n` pieces of at most `room` bytes to the device, in any order, each made by `fill` and
    /// used by `sent`. Several threads may make pieces at once; on return all are queued.
    ///
    /// # Errors
    /// What `fill` and `sent` report; there is not enough memory; the device is lost.
    fn stream_in(&self, n: usize, room: usize, fill: &Fill<'_>, sent: &Sent<'_>) -> Result<()>;

    /// Nothing more is streamed in: gives back memory that only that needed, and loads all kernels.
    ///
    /// # Errors
    /// A kernel cannot be loaded, or the device is lost.
    fn ready(&self) -> Result<()>;

    /// Copies to the host and waits for it.
    ///
    /// # Errors
    /// The device is lost.
    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()>;

    /// Copies within the device; the places do not overlap.
    ///
    /// # Errors
    /// The device is lost.
    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()>;

    /// Queues a kernel, or adds it to the recording. `args` is its one parameter.
    ///
    /// # Errors
    /// No such kernel, a launch the device cannot do, or the device is lost.
    fn launch(&self, kernel: &Kernel, launch: Launch, args: &[u8]) -> Result<()>;

    /// Begins to record launches instead of queueing them.
    ///
    /// # Errors
    /// The device is lost.
    fn record(&self) -> Result<()>;

    /// Ends the recording.
    ///
    /// # Errors
    /// The device is lost.
    fn finish(&self) -> Result<Recording>;

    /// Queues everything that was recorded.
    ///
    /// # Errors
    /// The device is lost.
    fn replay(&self, recording: Recording) -> Result<()>;

    /// Forgets a recording.
    fn forget(&self, recording: Recording);

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// The device is lost.
    fn wait(&self) -> Result<()>;
}
