//! The memory bandwidth of the device, measured: the roof that decoding is held against.

use std::time::Instant;

use backend::Result;

use crate::Cuda;
use crate::gpu::{Args, DevicePtr, Kernel, Launch};

const READ: Kernel = Kernel::new("bandwidth", "read_words");
/// Many times any cache.
const BYTES: usize = 2 << 30;
/// Reads between two looks at the clock, so that the wait for the last one counts little.
const READS: u32 = 8;
const PASSES: usize = 5;

#[repr(C)]
#[derive(Clone, Copy)]
struct ReadArgs {
    from: DevicePtr,
    sums: DevicePtr,
    n: u64,
}

// SAFETY: the struct of cuda/bandwidth.cu, without padding.
unsafe impl Args for ReadArgs {}

impl Cuda {
    /// GB/s (10⁹ bytes) of plain reads: the best of several passes over 2 GiB, which are taken
    /// meanwhile.
    ///
    /// # Errors
    /// Memory cannot be had, or the device is lost.
    pub fn read_bandwidth(&self) -> Result<f64> {
        let gpu = &self.gpu;
        let buffer = gpu.alloc("bandwidth probe", BYTES)?;
        let blocks = 4 * gpu.sms();
        let sums = gpu.alloc("bandwidth probe", 4 * blocks)?;
        let args = ReadArgs { from: buffer.ptr(), sums: sums.ptr(), n: (BYTES / 16) as u64 };
        let mut best = 0.0f64;
        for _ in 0..PASSES {
            gpu.settled()?.wait()?;
            let start = Instant::now();
            for _ in 0..READS {
                gpu.launch(&READ, Launch::new(blocks, 512), &args)?;
            }
            gpu.settled()?.wait()?;
            let bytes = BYTES as f64 * f64::from(READS);
            best = best.max(bytes / start.elapsed().as_secs_f64() / 1e9);
        }
        Ok(best)
    }
}
