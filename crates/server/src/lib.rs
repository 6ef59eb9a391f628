//! HTTP: the protocols of OpenAI and Anthropic over one runtime.
//!
//! A body goes through [`fields`] (every field is honoured or refused by name), [`noise`]
//! (per-request noise is removed from the prompt) and [`prepare`] (DeepSeek's crates validate and
//! render it; [`replay`] puts sampled tokens in the place of tool calls that come back) and becomes
//! requests to the runtime. [`generation`] turns their events into the protocol's, and the routes
//! send those as a stream or as one body. Dropping a response cancels its requests.
//!
//! The server holds no state but the stored responses ([`responses`]) and the memory of tool calls
//! ([`replay`]), both bounded.

mod app;
mod auth;
mod choices;
mod completions;
mod error;
mod fields;
mod generation;
mod grammar;
mod http;
mod ids;
mod metrics;
mod noise;
mod openapi;
mod prefix;
mod prepare;
mod replay;
mod responses;
mod routes;
mod sse;
mod tokens;

pub use app::{App, Options};
pub use http::{HttpOptions, run, serve};
