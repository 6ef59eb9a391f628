//! Block formats of GGUF tensors: encode, decode, dot products.
//!
//! [`TensorType`] names a format and knows its geometry; [`decode`] turns whole blocks into floats,
//! [`encode`] the reverse for the formats that Keid writes. The small float formats that the model
//! itself rounds through (its KV rows are E4M3, its index rows E2M1) live in [`f8`], [`f4`] and
//! [`round_trip`].
//!
//! This crate knows nothing of files, tensors' names or the model.

mod arch;
mod decode;
pub mod dot;
mod encode;
mod error;
pub mod f4;
pub mod f8;
pub mod grids;
pub mod round_trip;
mod tensor_type;
mod widest;

pub use decode::decode;
pub use encode::{encode, encode_weighted};
pub use error::Error;
pub use round_trip::hadamard;
pub use tensor_type::TensorType;
