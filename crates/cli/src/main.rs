//! The one binary, `keid`.
fn main() {}
