//! The fast CPU backend: threads and SIMD.
