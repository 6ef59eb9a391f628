//! The fast CPU backend: threads and SIMD.
//!
//! Weights stay in the mapped file, as they are stored; two processes share one copy. Products run on
//! [`quant::dot`]'s kernels, whose bits depend on neither the instruction set nor the number of rows;
//! every other operation treats rows one by one. So a row has the same bits in any batch, with any
//! chunking and on any number of threads.
//!
//! One file an operation, with the names of `backend::reference`. [`Pool`] is the threads, `parallel`
//! divides rows and columns among them.

mod attend;
mod attn_in;
mod attn_out;
mod compress;
mod device;
mod embed;
mod hyper_connection;
mod index_top_k;
mod matmul;
mod moe;
mod norm;
mod numa;
mod ops;
mod parallel;
mod pool;
mod products;
mod rope_tail;
mod route;
mod routed_experts;
mod sample;
mod swiglu;
mod topology;
mod weight;
mod work;

pub use numa::spread_memory;
pub use pool::{Pool, PoolOptions};
pub use weight::Weight;

use backend::{Scratch, Shape};
use quant::dot::Kernels;
use work::Work;

/// A buffer of this backend.
pub type Floats = Vec<f32>;

/// Intermediates of coarse operations.
type CpuScratch = Scratch<Floats, Vec<u32>>;

/// The CPU as a device.
pub struct Cpu {
    pool: Pool,
    kernels: Kernels,
    shape: Option<Shape>,
    scratch: Option<Box<CpuScratch>>,
    work: Option<Box<Work>>,
}

impl Cpu {
    /// A backend with its own threads and the fastest kernels of this machine.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(options: PoolOptions) -> std::io::Result<Self> {
        Self::with_kernels(options, Kernels::detect())
    }

    /// As [`Cpu::new`], with kernels of choice.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn with_kernels(options: PoolOptions, kernels: Kernels) -> std::io::Result<Self> {
        Ok(Self { pool: Pool::new(options)?, kernels, shape: None, scratch: None, work: None })
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Name of the kernels' instruction set.
    pub fn kernels(&self) -> &'static str {
        self.kernels.name()
    }

    /// Everything an operation works with.
    fn parts(&mut self) -> Parts<'_> {
        let (shape, work) = (self.shape.as_ref(), self.work.as_mut());
        // Forgetting `prepare` is a programmer's error.
        let (Some(shape), Some(work)) = (shape, work) else { panic!("prepare comes first") };
        Parts { pool: &mut self.pool, kernels: self.kernels, shape, work }
    }
}

/// The backend's members, borrowed apart.
struct Parts<'a> {
    pool: &'a mut Pool,
    kernels: Kernels,
    shape: &'a Shape,
    work: &'a mut Work,
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_backend_can_move_to_the_engines_thread() {
        fn assert_send<T: Send>() {}
        assert_send::<super::Cpu>();
    }
}
