//! The boundary between the model and a device.
//!
//! [`Device`] is memory, [`Ops`] is everything a backend computes, in the order of the forward
//! pass, and [`Step`] says which tokens a call computes and where. `reference` is the scalar
//! backend that the others are checked against; `host_kv` is the KV store of backends that
//! compute in host memory; `cases` is the one list of inputs that every backend's operations are
//! run on.
//!
//! Nothing here knows a tensor's name, a file, or a protocol.

pub mod cases;
pub mod defaults;
mod device;
mod error;
mod host_kv;
mod kv;
pub mod kv_row;
mod ops;
pub mod reference;
mod sampler;
mod scratch;
mod step;
mod weights;

pub use device::{Act, Device, Ids, Limits, Shape};
pub use error::{Error, Result};
pub use host_kv::{HostKv, LayerKv, SpanRows, taken};
pub use kv::{AnchorView, KvLayout, LayerLayout, PAGE_TOKENS, RowFormat, RowLayout};
pub use ops::{
    AttentionBuffers, AttentionWork, ExpertBuffers, LayerBuffers, Ops, PoolInput, Pooled, Routing,
    Selected, SendOps,
};
pub use sampler::{Draw, Sampler, Sampling, argmax};
pub use scratch::Scratch;
pub use step::{Count, SlotSpan, Step, StepRow};
pub use weights::{
    AttentionWeights, CompressorWeights, ExpertWeights, HcWeights, HeadWeights, IndexerWeights,
    LayerWeights, MoeWeights, RouterWeights, SiteWeights,
};
