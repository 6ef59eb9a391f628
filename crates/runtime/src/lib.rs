//! Owns the engine thread: requests in, events out.
