//! The oracle's tiny models and golden data, for tests.
