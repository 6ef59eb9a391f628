//! KV pages, anchors and the prefix index: bytes and hashes only.
