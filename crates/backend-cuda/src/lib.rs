//! The CUDA backend: kernels in CUDA C++, loaded at run time; nothing of CUDA is linked.
//!
//! One file an operation, with the names of `backend::reference`: `src/<op>.rs` chooses the launch,
//! `cuda/<op>.cu` is the kernel. [`driver`] is the device, [`gpu`] adds recording: a step of a known
//! shape is one graph launch. Activations are f32; sums run in fixed orders, without float atomics.

mod attend;
mod attention;
mod bandwidth;
mod compress;
mod device;
pub mod driver;
mod embed;
pub mod gpu;
mod heads;
mod hyper_connection;
mod index_top_k;
pub mod kernels;
mod kv;
mod layer;
mod matmul;
mod mixture;
mod norm;
mod ops;
mod projections;
mod rope_tail;
mod route;
mod sample;
mod site;
mod step;
mod swiglu;
mod trials;
mod upload;
mod weight;

use std::sync::Arc;

use backend::{Scratch, Shape};

pub use driver::nvidia::OpenError;
use driver::{Description, Driver};
pub use gpu::Buffer;
use gpu::Gpu;
pub use kv::Kv;
pub use matmul::{Matrix, rounds};
use step::Mirror;
pub use trials::Trials;
pub use weight::Weight;

/// Up to so many rows, launches cost more than arithmetic: operations are fused and steps recorded.
const FEW_ROWS: usize = 64;

/// One CUDA device.
pub struct Cuda {
    gpu: Gpu,
    prepared: Option<Prepared>,
    scratch: Option<Box<Scratch<Buffer, Buffer>>>,
}

/// What `prepare` sizes.
struct Prepared {
    shape: Shape,
    mirror: Mirror,
    products: matmul::Workspace,
    hyper_connection: hyper_connection::Workspace,
    projections: attention::Workspace,
    attention: attend::Workspace,
    mixture: mixture::Workspace,
    site: site::Workspace,
    index: index_top_k::Workspace,
    sample: sample::Workspace,
}

impl Cuda {
    /// Device `ordinal` of this machine.
    ///
    /// # Errors
    /// What is missing: a driver, a newer one, a device, kernels for it.
    pub fn open(ordinal: usize) -> Result<Self, OpenError> {
        Self::open_for_trials(ordinal, &Trials::default())
    }

    /// The same, in other ways than the default ones.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    pub fn open_for_trials(ordinal: usize, trials: &Trials) -> Result<Self, OpenError> {
        let driver = driver::nvidia::Nvidia::open(ordinal, trials)?;
        Ok(Self::with_driver(Arc::new(driver)))
    }

    /// The backend on any driver.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Self {
        Self { gpu: Gpu::new(driver), prepared: None, scratch: None }
    }

    /// What the device is.
    pub fn description(&self) -> &Description {
        self.gpu.description()
    }

    /// Free and total bytes of its memory.
    ///
    /// # Errors
    /// The device is lost.
    pub fn memory(&self) -> backend::Result<(u64, u64)> {
        self.gpu.settled()?.memory()
    }

    /// Everything an operation works with.
    fn parts(&self) -> Parts<'_> {
        // Forgetting `prepare` is a programmer's error.
        let Some(prepared) = &self.prepared else { panic!("prepare comes first") };
        Parts {
            gpu: &self.gpu,
            shape: &prepared.shape,
            mirror: &prepared.mirror,
            products: &prepared.products,
            hyper_connection: &prepared.hyper_connection,
            projections: &prepared.projections,
            attention: &prepared.attention,
            mixture: &prepared.mixture,
            site: &prepared.site,
            index: &prepared.index,
        }
    }
}

/// The backend's members, borrowed apart.
struct Parts<'a> {
    gpu: &'a Gpu,
    shape: &'a Shape,
    mirror: &'a Mirror,
    products: &'a matmul::Workspace,
    hyper_connection: &'a hyper_connection::Workspace,
    projections: &'a attention::Workspace,
    attention: &'a attend::Workspace,
    mixture: &'a mixture::Workspace,
    site: &'a site::Workspace,
    index: &'a index_top_k::Workspace,
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_backend_can_move_to_the_engines_thread() {
        fn assert_send<T: Send>() {}
        assert_send::<super::Cuda>();
    }
}
