//! The real device, through the driver API. Nothing of CUDA is linked: a machine without it gets an
//! error that says what is missing.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use backend::{Error, Result};
use cudarc::driver::{DriverError, result, sys};
use rustc_hash::FxHashMap;

use super::lanes::Lanes;
use super::{Description, DevicePtr, Driver, Fill, Kernel, Launch, Recording, Sent};
use crate::Trials;
use crate::gpu::NAME;
use crate::kernels::Kernels;

/// The oldest driver whose interface this build uses: CUDA 13.0, driver 580.
const DRIVER_MIN: i32 = 13_000;
/// The oldest device that kernels are made for.
const ARCH_MIN: u32 = 80;
/// The oldest device that lets a kernel begin before the one in front has ended.
const OVERLAP_ARCH: u32 = 90;
/// Bytes that are read from the device at once: the logits of some rows.
const STAGING: usize = 4 << 20;
/// Dynamic shared memory that needs no permission.
const SHARED_FREE: u32 = 48 << 10;

/// Why no device can be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No driver is installed.
    #[error("no NVIDIA driver: libcuda cannot be loaded")]
    NoDriver,
    /// The driver is too old.
    #[error(
        "the NVIDIA driver is for CUDA {}.{}, 13.0 (driver 580) or newer is needed",
        found / 1000,
        found % 1000 / 10
    )]
    OldDriver {
        /// CUDA version of the driver, 12040 for 12.4.
        found: i32,
    },
    /// There is a driver, but no device.
    #[error("the NVIDIA driver sees {count} devices, device {ordinal} is wanted")]
    NoDevice {
        /// Devices there are.
        count: i32,
        /// The wanted one.
        ordinal: usize,
    },
    /// The device is older than any kernel here.
    #[error("{name} has compute capability {}.{}, 8.0 or newer is needed", arch / 10, arch % 10)]
    OldDevice {
        /// The product.
        name: String,
        /// Compute capability.
        arch: u32,
    },
    /// No kernels for the device are in this binary and they cannot be compiled here.
    #[error("{name} (sm_{arch}): {why}")]
    NoKernels {
        /// The product.
        name: String,
        /// Compute capability.
        arch: u32,
        /// What is missing.
        why: String,
    },
    /// The driver refused something.
    #[error("the NVIDIA driver refused {call}: {text}")]
    Driver {
        /// What was asked.
        call: &'static str,
        /// What it said.
        text: String,
    },
}

/// One device with one stream.
pub struct Nvidia {
    description: Description,
    context: sys::CUcontext,
    device: sys::CUdevice,
    stream: sys::CUstream,
    functions: Mutex<Functions>,
    recordings: Mutex<Vec<Option<Graph>>>,
    staging: Mutex<Staging>,
    /// While weights are loaded.
    lanes: Mutex<Option<Lanes>>,
}

// SAFETY: contexts, streams, functions and graphs are handles that the driver lets any thread use
// once the context is current there, which every call here makes sure of.
unsafe impl Send for Nvidia {}
// SAFETY: as above; the tables are behind locks.
unsafe impl Sync for Nvidia {}

struct Functions {
    kernels: Kernels,
    /// A folder whose kernels come before those.
    folder: Option<PathBuf>,
    /// Whether all kernels ask for the same division of a multiprocessor's memory.
    modules: FxHashMap<&'static str, sys::CUmodule>,
    by_kernel: FxHashMap<Kernel, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may use.
    shared: u32,
}

/// Host memory that the device writes to directly.
struct Staging(*mut u8);

struct Graph {
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
}

fn text(error: DriverError) -> String {
    let name = error.error_name().map(CStr::to_string_lossy);
    let text = error.error_string().map(CStr::to_string_lossy);
    match (name, text) {
        (Ok(name), Ok(text)) => format!("{name}: {text}"),
        _ => format!("error {:?}", error.0 as u32),
    }
}

fn refused(call: &'static str) -> impl Fn(DriverError) -> OpenError {
    move |error| OpenError::Driver { call, text: text(error) }
}

/// Any failure of a running device: its context is gone, and with it everything on it.
pub(super) fn lost(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Lost { device: NAME, what: format!("{call} failed: {}", text(error)) }
}

/// A failure to take memory.
pub(super) fn no_memory(label: &'static str, bytes: usize) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::OutOfMemory { device: NAME, label, bytes: bytes as u64 }
        }
        _ => lost("taking memory")(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The tables are whole between any two statements that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nvidia {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(ordinal: usize, trials: &Trials) -> std::result::Result<Self, OpenError> {
        let device = find(ordinal)?;
        let name = result::device::get_name(device).map_err(refused("the device's name"))?;
        let attribute = |which| {
            // SAFETY: `device` was given out by the driver.
            unsafe { result::device::get_attribute(device, which) }
                .map_err(refused("a device attribute"))
        };
        use sys::CUdevice_attribute as A;
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let arch = (10 * major + minor).unsigned_abs();
        if arch < ARCH_MIN {
            return Err(OpenError::OldDevice { name, arch });
        }
        let sms = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.unsigned_abs();
        let shared = attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let kernels = Kernels::find(arch).map_err(|why| OpenError::NoKernels {
            name: name.clone(),
            arch,
            why,
        })?;
        // SAFETY: `device` was given out by the driver; it is released when `Nvidia` is dropped.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(refused("a context"))?;
        // SAFETY: the context was just made.
        unsafe { result::ctx::set_current(context) }.map_err(refused("a context"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(refused("a stream"))?;
        // SAFETY: the context is current; freed when `Nvidia` is dropped.
        let staging = unsafe { result::malloc_host(STAGING, 0) };
        let staging = staging.map_err(refused("page-locked memory"))?.cast::<u8>();
        let shared_max = shared.unsigned_abs() as usize;
        Ok(Self {
            description: Description { name, arch, sms, shared_max, ptx: true },
            context,
            device,
            stream,
            functions: Mutex::new(Functions {
                kernels,
                folder: trials.kernels.clone(),
                modules: FxHashMap::default(),
                by_kernel: FxHashMap::default(),
            }),
            recordings: Mutex::new(Vec::new()),
            staging: Mutex::new(Staging(staging)),
            lanes: Mutex::new(None),
        })
    }

    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives until `self` is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(lost("choosing the context"))
    }

    fn function(&self, kernel: &Kernel, shared: u32) -> Result<sys::CUfunction> {
        let mut functions = lock(&self.functions);
        if let Some(found) = functions.by_kernel.get(kernel).filter(|f| shared <= f.shared) {
            return Ok(found.handle);
        }
        use sys::CUfunction_attribute as A;
        let handle = functions.load(kernel)?;
        if shared > SHARED_FREE {
            let which = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is of a module that is never unloaded.
            unsafe { result::function::set_function_attribute(handle, which, shared as i32) }
                .map_err(lost("more shared memory"))?;
        }
        let shared = shared.max(SHARED_FREE);
        functions.by_kernel.insert(*kernel, Function { handle, shared });
        Ok(handle)
    }
}

/// The device, if the driver is there, new enough, and has it.
fn find(ordinal: usize) -> std::result::Result<sys::CUdevice, OpenError> {
    // SAFETY: loads a library whose initialisers are the driver's own.
    if !unsafe { sys::is_culib_present() } {
        return Err(OpenError::NoDriver);
    }
    let mut found = 0;
    // SAFETY: writes one int; the function exists in every driver.
    unsafe { sys::cuDriverGetVersion(&raw mut found) }.result().map_err(refused("its version"))?;
    check_version(found)?;
    let count = match result::init() {
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
        started => {
            started.map_err(refused("to start"))?;
            result::device::get_count().map_err(refused("to count devices"))?
        }
    };
    let device = choose(count, ordinal)?;
    result::device::get(device).map_err(refused("a device"))
}

fn check_version(found: i32) -> std::result::Result<(), OpenError> {
    if found < DRIVER_MIN { Err(OpenError::OldDriver { found }) } else { Ok(()) }
}

fn choose(count: i32, ordinal: usize) -> std::result::Result<i32, OpenError> {
    let wanted = i32::try_from(ordinal).ok().filter(|n| *n < count);
    wanted.ok_or(OpenError::NoDevice { count, ordinal })
}

impl Functions {
    /// Loads every kernel of this binary, which the driver would put off until a first launch. Those
    /// that are compiled on this machine are when they are needed.
    fn load_all(&mut self) -> Result<()> {
        for name in self.kernels.embedded() {
            let module = self.module(name).map_err(|found| no_code(name, "any", found))?;
            let mut n = 0;
            // SAFETY: the module is loaded; the call writes one number.
            let counted = unsafe { sys::cuModuleGetFunctionCount(&raw mut n, module) };
            counted.result().map_err(lost("counting kernels"))?;
            let mut handles = vec![std::ptr::null_mut(); n as usize];
            // SAFETY: there is room for `n` handles.
            let listed =
                unsafe { sys::cuModuleEnumerateFunctions(handles.as_mut_ptr(), n, module) };
            listed.result().map_err(lost("listing kernels"))?;
            for handle in handles {
                // SAFETY: the driver just gave the handle out.
                unsafe { sys::cuFuncLoad(handle) }.result().map_err(lost("loading a kernel"))?;
            }
        }
        Ok(())
    }

    fn module(&mut self, name: &'static str) -> std::result::Result<sys::CUmodule, String> {
        if let Some(module) = self.modules.get(name) {
            return Ok(*module);
        }
        let image = match self.folder.as_ref().map(|dir| dir.join(format!("{name}.cubin"))) {
            Some(path) if path.exists() => {
                Cow::Owned(fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?)
            }
            _ => self.kernels.image(name)?,
        };
        // SAFETY: the image is a whole cubin: embedded, or just made by NVRTC.
        let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) };
        let module = module.map_err(text)?;
        self.modules.insert(name, module);
        Ok(module)
    }

    fn load(&mut self, kernel: &Kernel) -> Result<sys::CUfunction> {
        if let Some(found) = self.by_kernel.get(kernel) {
            return Ok(found.handle);
        }
        let missing = |found: String| no_code(kernel.module, kernel.name, found);
        let module = self.module(kernel.module).map_err(missing)?;
        let name = CString::new(kernel.name).map_err(|e| missing(e.to_string()))?;
        // SAFETY: the module is loaded and never unloaded.
        unsafe { result::module::get_function(module, name) }.map_err(|e| missing(text(e)))
    }
}

fn no_code(module: &str, kernel: &str, found: String) -> Error {
    Error::Unsupported {
        device: NAME,
        what: format!("kernel {kernel} of {module}.cu"),
        expected: "code for this device".to_owned(),
        found,
    }
}

impl Driver for Nvidia {
    fn description(&self) -> &Description {
        &self.description
    }

    fn memory(&self) -> Result<(u64, u64)> {
        self.bind()?;
        let (free, total) = result::mem_get_info().map_err(lost("asking for its memory"))?;
        Ok((free as u64, total as u64))
    }

    fn alloc(&self, label: &'static str, bytes: usize) -> Result<DevicePtr> {
        self.bind()?;
        // SAFETY: the memory is handed out as an address only; reads follow writes on the stream.
        let taken = unsafe { result::malloc_sync(bytes) };
        taken.map(DevicePtr).map_err(no_memory(label, bytes))
    }

    fn free(&self, ptr: DevicePtr) {
        // Freeing waits for the device. Where that fails the device is lost, its memory with it, and
        // the next call that returns something says so.
        if self.bind().is_ok() {
            // SAFETY: only `Buffer` calls this, once, with what `alloc` returned.
            let _ = unsafe { result::free_sync(ptr.0) };
        }
    }

    fn zero(&self, to: DevicePtr, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the range lies within one buffer.
        unsafe { result::memset_d8_async(to.0, 0, bytes, self.stream) }
            .map_err(lost("filling memory"))
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the range lies within one buffer. The host's memory is pageable: the driver has
        // copied it when the call returns.
        unsafe { result::memcpy_htod_async(to.0, from, self.stream) }
            .map_err(lost("writing memory"))
    }

    fn stream_in(&self, n: usize, room: usize, fill: &Fill<'_>, sent: &Sent<'_>) -> Result<()> {
        self.bind()?;
        let mut lanes = lock(&self.lanes);
        if let Some(mut small) = lanes.take_if(|lanes| lanes.room() < room) {
            self.wait()?;
            small.free();
        }
        let lanes = match &mut *lanes {
            Some(lanes) => lanes,
            none => none.insert(Lanes::new(room)?),
        };
        lanes.run(self.stream, n, (fill, sent), &|| self.bind())
    }

    fn ready(&self) -> Result<()> {
        self.wait()?;
        if let Some(mut lanes) = lock(&self.lanes).take() {
            lanes.free();
        }
        lock(&self.functions).load_all()
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        let staging = lock(&self.staging);
        for (i, part) in to.chunks_mut(STAGING).enumerate() {
            // SAFETY: `STAGING` bytes were taken, and the lock makes them this thread's alone.
            let staged = unsafe { std::slice::from_raw_parts_mut(staging.0, part.len()) };
            let from = from.add(i * STAGING);
            // SAFETY: the range lies within one buffer, and the wait below comes before it is used.
            unsafe { result::memcpy_dtoh_async(staged, from.0, self.stream) }
                .map_err(lost("reading memory"))?;
            self.wait()?;
            part.copy_from_slice(staged);
        }
        Ok(())
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: both ranges lie within buffers.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream) }
            .map_err(lost("copying memory"))
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, args: &[u8]) -> Result<()> {
        self.bind()?;
        let function = self.function(kernel, launch.shared)?;
        let [x, y, z] = launch.grid;
        let mut params = [args.as_ptr().cast_mut().cast::<c_void>()];
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: self.stream,
            attrs: &raw mut overlap,
            // Older devices have kernels begin when the one before is done.
            numAttrs: u32::from(self.description.arch >= OVERLAP_ARCH),
        };
        // SAFETY: the kernel takes one struct by value, whose bytes these are (`Args`); the driver
        // copies them, and the attribute, before it returns. Kernels wait for those before them
        // (`await_previous` in common.cuh).
        unsafe {
            let none = std::ptr::null_mut();
            sys::cuLaunchKernelEx(&raw const config, function, params.as_mut_ptr(), none).result()
        }
        .map_err(|error| Error::Lost {
            device: NAME,
            what: format!("launching {} {launch:?} failed: {}", kernel.name, text(error)),
        })
    }

    fn record(&self) -> Result<()> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives until `self` is dropped.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(lost("recording"))
    }

    fn finish(&self) -> Result<Recording> {
        self.bind()?;
        // SAFETY: the stream is being captured: `record` came before.
        let graph =
            unsafe { result::stream::end_capture(self.stream) }.map_err(lost("recording"))?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made.
        let exec =
            unsafe { result::graph::instantiate(graph, flags) }.map_err(lost("recording"))?;
        // SAFETY: as above.
        unsafe { result::graph::upload(exec, self.stream) }.map_err(lost("recording"))?;
        let mut recordings = lock(&self.recordings);
        let free = recordings.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            recordings.push(None);
            recordings.len() - 1
        });
        recordings[at] = Some(Graph { graph, exec });
        Ok(Recording(at))
    }

    fn replay(&self, recording: Recording) -> Result<()> {
        self.bind()?;
        let recordings = lock(&self.recordings);
        let Some(Some(graph)) = recordings.get(recording.0) else { return Ok(()) };
        // SAFETY: the graph lives while it is in the table.
        unsafe { result::graph::launch(graph.exec, self.stream) }.map_err(lost("a recorded step"))
    }

    fn forget(&self, recording: Recording) {
        let taken = lock(&self.recordings).get_mut(recording.0).and_then(Option::take);
        if let Some(graph) = taken.filter(|_| self.bind().is_ok()) {
            destroy(&graph);
        }
    }

    fn wait(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives until `self` is dropped.
        unsafe { result::stream::synchronize(self.stream) }.map_err(lost("a computation"))
    }
}

/// Errors mean that the device is lost, and the graph with it.
fn destroy(graph: &Graph) {
    // SAFETY: both were made by `finish` and are taken out of the table.
    unsafe {
        let _ = result::graph::exec_destroy(graph.exec);
        let _ = result::graph::destroy(graph.graph);
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        lock(&self.recordings).iter().flatten().for_each(destroy);
        if let Some(lanes) = &mut *lock(&self.lanes) {
            // A load that failed may have left copies on their way.
            let _ = self.wait();
            lanes.free();
        }
        // SAFETY: nothing else holds the stream or the context; every buffer holds the driver, so
        // all of them are gone. Errors mean that the device is lost already.
        unsafe {
            let _ = result::free_host(lock(&self.staging).0.cast());
            let _ = result::stream::destroy(self.stream);
            for module in lock(&self.functions).modules.values() {
                let _ = result::module::unload(*module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let old = check_version(12_040).unwrap_err().to_string();
        assert!(old.contains("for CUDA 12.4, 13.0 (driver 580) or newer is needed"), "{old}");
        assert!(check_version(DRIVER_MIN).is_ok());
        let none = choose(0, 0).unwrap_err().to_string();
        assert!(none.contains("sees 0 devices, device 0 is wanted"), "{none}");
        assert_eq!(choose(2, 1).ok(), Some(1));
        assert!(choose(2, usize::MAX).is_err());
        let device = OpenError::OldDevice { name: "GTX 1080".to_owned(), arch: 61 };
        assert!(device.to_string().contains("compute capability 6.1, 8.0 or newer"), "{device}");
    }
}
