//! KV pages, anchors and the prefix index: hashes, counts and bytes, nothing of the model.
//!
//! A *page* is what 256 consecutive positions add to the compressed rows of all layers. Complete
//! pages are immutable and named by a hash chain, so two sequences with the same beginning hold
//! the same pages. An *anchor* is the rest of the state at one position. To resume, take the
//! longest chain of pages that matches the tokens and the last anchor inside it, and replay what
//! is left.
//!
//! [`Cache`] keeps the books: which page is used by whom, which page has which key, which anchors
//! hang where. The bytes of pages stay on the device; the bytes of anchors are held here.

mod cache;
mod key;
mod store;

pub use cache::{Cache, Lookup, Stats};
pub use key::{PAGE_TOKENS, PageKey};
