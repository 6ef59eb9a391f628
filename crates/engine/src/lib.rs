//! One layer function, batches, KV and sampling over any backend.
