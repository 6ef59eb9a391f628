//! Tiny models of the DeepSeek V4 architecture and the numbers they must give, for tests.
//!
//! - [`oracle`] makes checkpoints from nothing but a [`oracle::Config`]: weights come from an
//!   integer hash of the tensor's official name, so any program can make the same ones. `tiny_a`
//!   and `tiny_c` are the models that [`golden::Golden`] holds outputs of; other shapes serve
//!   property tests.
//! - [`golden`] is what a double-precision model computed from those weights.
//! - [`random`] draws small, valid shapes from a seed.
//!
//! Everything here is a function of its arguments: no clock, no machine, no randomness. Functions
//! panic on misuse, as tests do.

pub mod golden;
pub mod oracle;
pub mod random;
