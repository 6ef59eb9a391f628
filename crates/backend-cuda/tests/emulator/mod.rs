//! A driver that runs the kernels on the CPU: every `.cu` file is compiled as C++ against
//! `emulate.h`, and memory is the host's.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use backend::{Error, Result};
use backend_cuda::Cuda;
use backend_cuda::driver::{Description, DevicePtr, Driver, Fill, Kernel, Launch, Recording, Sent};
use libloading::Library;

type Run = unsafe extern "C" fn(
    module: *const i8,
    name: *const i8,
    grid: *const u32,
    threads: u32,
    shared: u32,
    args: *const c_void,
    args_bytes: u32,
) -> i32;

/// The backend on the emulator.
#[allow(dead_code, reason = "each test file compiles this module for itself")]
pub(crate) fn cuda() -> Cuda {
    Cuda::with_driver(Arc::new(Emulator::new(80)))
}

/// The backend with the kernels that it takes for sm_90.
#[allow(dead_code, reason = "each test file compiles this module for itself")]
pub(crate) fn cuda_90() -> Cuda {
    Cuda::with_driver(Arc::new(Emulator::new(90)))
}

/// The backend on the emulator, and the bytes that it holds.
#[allow(dead_code, reason = "each test file compiles this module for itself")]
pub(crate) fn cuda_with_count() -> (Cuda, Arc<AtomicUsize>) {
    let emulator = Emulator::new(80);
    let held = Arc::clone(&emulator.held);
    (Cuda::with_driver(Arc::new(emulator)), held)
}

struct Emulator {
    run: Run,
    description: Description,
    /// Buffers by address, and their bytes.
    memory: Mutex<HashMap<u64, (Vec<u128>, usize)>>,
    held: Arc<AtomicUsize>,
    recording: Mutex<Option<Vec<Launched>>>,
    recordings: Mutex<Vec<Vec<Launched>>>,
}

#[derive(Clone)]
struct Launched {
    kernel: Kernel,
    launch: Launch,
    args: Vec<u128>,
    args_bytes: usize,
}

impl Emulator {
    fn new(arch: u32) -> Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| {
            let path = build();
            // SAFETY: the library was just built from this repository; its initialisers fill a table.
            unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        });
        // SAFETY: the symbol has this signature (emulate.cpp), and the library is never unloaded.
        let run = unsafe { *library.get::<Run>(b"keid_launch").expect("emulate.cpp defines it") };
        Self {
            run,
            description: Description {
                name: "emulator".to_owned(),
                arch,
                sms: 4,
                shared_max: if arch == 90 { 227 << 10 } else { 99 << 10 },
                ptx: false,
            },
            memory: Mutex::default(),
            held: Arc::default(),
            recording: Mutex::default(),
            recordings: Mutex::default(),
        }
    }

    fn execute(&self, job: &Launched) -> Result<()> {
        let text = |s: &str| CString::new(s).expect("no zero in a name");
        let (module, name) = (text(job.kernel.module), text(job.kernel.name));
        let Launch { grid, block, shared } = job.launch;
        assert!(shared as usize <= self.description.shared_max, "{:?}: {shared}", job.kernel);
        let args = job.args.as_ptr().cast();
        // SAFETY: the kernel reads one struct of `args_bytes` bytes, which it checks, and memory by
        // addresses that its caller took from `alloc`.
        let code = unsafe {
            (self.run)(
                module.as_ptr(),
                name.as_ptr(),
                grid.as_ptr(),
                block,
                shared,
                args,
                job.args_bytes as u32,
            )
        };
        assert_eq!(
            code, 0,
            "{:?} {:?}: emulate.cpp says what the code means",
            job.kernel, job.launch
        );
        Ok(())
    }
}

impl Driver for Emulator {
    fn description(&self) -> &Description {
        &self.description
    }

    fn memory(&self) -> Result<(u64, u64)> {
        Ok((1 << 34, 1 << 34))
    }

    fn alloc(&self, label: &'static str, bytes: usize) -> Result<DevicePtr> {
        if bytes > 1 << 34 {
            return Err(Error::OutOfMemory { device: "emulator", label, bytes: bytes as u64 });
        }
        let mut memory = vec![0u128; bytes.div_ceil(16)];
        let ptr = memory.as_mut_ptr() as u64;
        self.memory.lock().expect("no panic holds it").insert(ptr, (memory, bytes));
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(DevicePtr(ptr))
    }

    fn free(&self, ptr: DevicePtr) {
        let freed = self.memory.lock().expect("no panic holds it").remove(&ptr.0);
        self.held.fetch_sub(freed.expect("only what was taken is freed").1, Ordering::Relaxed);
    }

    fn zero(&self, to: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the range lies within a buffer.
        unsafe { std::ptr::write_bytes(to.0 as *mut u8, 0, bytes) };
        Ok(())
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        // SAFETY: the range lies within a buffer, which the host's slice does not touch.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.0 as *mut u8, from.len()) };
        Ok(())
    }

    fn stream_in(&self, n: usize, room: usize, fill: &Fill<'_>, sent: &Sent<'_>) -> Result<()> {
        let mut piece = vec![0u128; room.div_ceil(16)];
        let ptr = DevicePtr(piece.as_mut_ptr() as u64);
        for i in 0..n {
            // SAFETY: the vector holds at least as many bytes, and nothing else uses it meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts_mut(ptr.0 as *mut u8, room) };
            fill(i, bytes)?;
            sent(i, ptr)?;
        }
        Ok(())
    }

    fn ready(&self) -> Result<()> {
        Ok(())
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: both ranges lie within buffers; the caller promises that they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to.0 as *mut u8, bytes) };
        Ok(())
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, args: &[u8]) -> Result<()> {
        // Aligned as the kernel's struct may need.
        let mut aligned = vec![0u128; args.len().div_ceil(16)];
        // SAFETY: the vector holds at least as many bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(args.as_ptr(), aligned.as_mut_ptr().cast(), args.len());
        }
        let job = Launched { kernel: *kernel, launch, args: aligned, args_bytes: args.len() };
        match &mut *self.recording.lock().expect("no panic holds it") {
            Some(jobs) => {
                jobs.push(job);
                Ok(())
            }
            None => self.execute(&job),
        }
    }

    fn record(&self) -> Result<()> {
        *self.recording.lock().expect("no panic holds it") = Some(Vec::new());
        Ok(())
    }

    fn finish(&self) -> Result<Recording> {
        let jobs = self.recording.lock().expect("no panic holds it").take().expect("recording");
        let mut recordings = self.recordings.lock().expect("no panic holds it");
        recordings.push(jobs);
        Ok(Recording(recordings.len() - 1))
    }

    fn replay(&self, recording: Recording) -> Result<()> {
        let jobs = self.recordings.lock().expect("no panic holds it")[recording.0].clone();
        jobs.iter().try_for_each(|job| self.execute(job))
    }

    fn forget(&self, recording: Recording) {
        self.recordings.lock().expect("no panic holds it")[recording.0].clear();
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

/// The backend on a device that is lost after so many calls, and the bytes that it holds.
#[allow(dead_code, reason = "each test file compiles this module for itself")]
pub(crate) fn cuda_lost_after(calls: usize) -> (Cuda, Arc<AtomicUsize>) {
    let emulator = Emulator::new(90);
    let held = Arc::clone(&emulator.held);
    let driver = Lost { emulator, left: AtomicUsize::new(calls) };
    (Cuda::with_driver(Arc::new(driver)), held)
}

/// A device that answers some calls, and from then on none, as a real one does.
struct Lost {
    emulator: Emulator,
    left: AtomicUsize,
}

impl Lost {
    fn alive(&self) -> Result<&Emulator> {
        let one_less = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Ok(&self.emulator),
            Err(_) => Err(Error::Lost { device: "cuda", what: "it fell off the bus".to_owned() }),
        }
    }
}

impl Driver for Lost {
    fn description(&self) -> &Description {
        self.emulator.description()
    }

    fn memory(&self) -> Result<(u64, u64)> {
        self.alive()?.memory()
    }

    fn alloc(&self, label: &'static str, bytes: usize) -> Result<DevicePtr> {
        self.alive()?.alloc(label, bytes)
    }

    fn free(&self, ptr: DevicePtr) {
        self.emulator.free(ptr);
    }

    fn zero(&self, to: DevicePtr, bytes: usize) -> Result<()> {
        self.alive()?.zero(to, bytes)
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.alive()?.upload(to, from)
    }

    fn stream_in(&self, n: usize, room: usize, fill: &Fill<'_>, sent: &Sent<'_>) -> Result<()> {
        self.alive()?.stream_in(n, room, fill, sent)
    }

    fn ready(&self) -> Result<()> {
        self.alive()?.ready()
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.alive()?.download(from, to)
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.alive()?.copy(from, to, bytes)
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, args: &[u8]) -> Result<()> {
        self.alive()?.launch(kernel, launch, args)
    }

    fn record(&self) -> Result<()> {
        self.alive()?.record()
    }

    fn finish(&self) -> Result<Recording> {
        self.alive()?.finish()
    }

    fn replay(&self, recording: Recording) -> Result<()> {
        self.alive()?.replay(recording)
    }

    fn forget(&self, recording: Recording) {
        self.emulator.forget(recording);
    }

    fn wait(&self) -> Result<()> {
        self.alive()?.wait()
    }
}

/// Compiles every kernel file and links them. Objects are kept and made again when a source is newer.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (cuda, here) = (root.join("cuda"), root.join("tests/emulator"));
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    std::fs::create_dir_all(&out).expect("the target folder can be written");
    let mut jobs = vec![(here.join("emulate.cpp"), String::new(), out.join("emulate.o"))];
    for module in backend_cuda::kernels::modules() {
        let object = out.join(format!("{}.o", module.replace('/', "-")));
        jobs.push((cuda.join(format!("{module}.cu")), module.to_owned(), object));
    }
    let newest = newest(&cuda).max(newest(&here));
    let library = out.join("libkernels.so");
    let made = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if made(&library).is_some_and(|t| Some(t) > newest) {
        return library;
    }
    let compile = |(source, module, object): &(PathBuf, String, PathBuf)| {
        let mut command = Command::new("c++");
        command.args(["-x", "c++", "-std=c++17", "-O2", "-fPIC", "-Wall", "-Wno-unknown-pragmas"]);
        command.args(["-Wno-unused-function", "-DKEID_EMULATE", "-c"]);
        command.arg(format!("-DKEID_MODULE=\"{module}\""));
        command.args(["-I".as_ref(), here.as_os_str(), "-I".as_ref(), cuda.as_os_str()]);
        run(command.arg(source).arg("-o").arg(object));
    };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                compile(job);
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    let objects = jobs.iter().map(|(_, _, object)| object);
    run(Command::new("c++").arg("-shared").args(objects).arg("-o").arg(&library));
    library
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("a C++ compiler, `c++`, is needed: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn newest(dir: &Path) -> Option<std::time::SystemTime> {
    let entries = std::fs::read_dir(dir).expect("the sources are there").flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() { newest(&path) } else { path.metadata().ok()?.modified().ok() }
        })
        .max()
}
