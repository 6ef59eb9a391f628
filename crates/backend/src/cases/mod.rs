//! The one list of cases per operation, run on every backend against the reference.
