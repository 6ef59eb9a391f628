//! What the system allows this process.

use serde::Serialize;

use super::Files;

/// Limits; `None` means unlimited or unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bytes that may be locked in memory.
    pub locked_memory: Option<u64>,
    /// Bytes of address space.
    pub address_space: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// Mappings that a process may have.
    pub mappings: Option<u64>,
}

impl Limits {
    pub(super) fn read(files: &Files) -> Self {
        let table = files.text("proc/self/limits").unwrap_or_default();
        Self {
            locked_memory: soft(&table, "Max locked memory"),
            address_space: soft(&table, "Max address space"),
            open_files: soft(&table, "Max open files"),
            mappings: files.text("proc/sys/vm/max_map_count").and_then(|n| n.parse().ok()),
        }
    }
}

/// The soft limit in a line `Name   soft   hard   unit`.
fn soft(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::laid_out;
    use super::*;

    #[test]
    fn unlimited_is_no_limit() {
        let table = "Limit Soft Hard Units\n\
                     Max locked memory         8388608     8388608     bytes\n\
                     Max address space         unlimited   unlimited   bytes\n";
        let (_dir, files) = laid_out(&[("proc/self/limits", table)]);
        let limits = Limits::read(&files);
        assert_eq!((limits.locked_memory, limits.address_space), (Some(8 << 20), None));
    }
}
