//! The server over an engine that says what a test wants to hear.

mod clients;
mod common;
mod concurrency;
mod forced;
mod formats;
mod goldens;
mod hostile;
mod protocols;
mod raw;
mod stored;
mod streams;
mod tools;
