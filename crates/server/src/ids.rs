use std::hash::{BuildHasher, RandomState};

/// A number that nobody can guess and that does not come again.
pub(crate) fn random() -> u64 {
    // The standard library's keys come from the system and differ with every call.
    RandomState::new().hash_one(())
}

/// `prefix` and 24 hexadecimal digits.
pub(crate) fn id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random(), random() as u32)
}
