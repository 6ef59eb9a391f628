//! What DeepSeek V4 *is*: configuration, layer kinds, tensor names and their binding to a file.
//!
//! No arithmetic happens here and no device is known here. Everything a file says is checked once,
//! in [`Config::from_gguf`] and [`bind`], so that nothing later looks a tensor up by its name.

mod bind;
mod config;
mod error;
mod mtp;
mod names;
mod presets;
mod rope;

pub use bind::{
    AttentionTensors, CompressorTensors, ExpertTensors, HcTensors, HeadTensors, HostTensor,
    IndexerTensors, LayerTensors, ModelTensors, MoeTensors, RouterTensors, bind,
};
pub use config::{Config, HcConfig, IndexerConfig, LayerKind, RouterKind};
pub use error::{Error, Result};
pub use mtp::{MtpSource, MtpTensors, bind_mtp, find_mtp};
pub use names::{Role, TensorClass, classify};
pub use presets::Preset;
pub use rope::Rope;
