//! What the crate does with published fixtures, and with what no fixture holds.

mod conversation;
mod encoder;
mod fuzz;
mod requests;
mod streams;
mod support;
mod tokens;
