//! The engine: one layer function, ragged steps, KV books and sampling over any backend.
//!
//! [`Core`] is the loaded model on one backend; the object-safe [`Engine`] is what the runtime,
//! the server and the commands see. A step is *fed* (computed into staging), its logits are read,
//! and the accepted part is *committed*; whatever is not committed leaves no trace.

mod activations;
mod core;
mod error;
mod layer;
mod load;
mod mtp;
mod options;
mod plan;
mod session;
mod slots;
mod snapshot;

pub use crate::core::{Core, Feed, Wanted};
pub use backend::{Draw, Error as DeviceError, RowFormat, Sampler, Sampling, argmax};
pub use error::{Error, Result};
pub use options::Options;
pub use plan::{MemoryPlan, PlanLine, weight_bytes};
pub use session::{Engine, Info, Prefill, Reuse, prefill};
pub use slots::ANCHOR_EVERY;
pub use snapshot::NUMERICS_VERSION;
