//! What this machine is: processor, memory, limits, accelerators. Read from `/proc` and `/sys`
//! (or `sysctl` on macOS), never by starting a vendor's tool or loading a vendor's library.

// On macOS the readers of Linux's files serve the tests alone.
#![cfg_attr(target_os = "macos", allow(dead_code))]

mod cpu;
mod gpu;
mod limits;
#[cfg(target_os = "macos")]
mod macos;
mod memory;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use cpu::Cpu;
pub use gpu::{Gpu, Vendor};
pub use limits::Limits;
pub use memory::Memory;

/// A machine, as far as it can be seen from inside.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Operating system and architecture, such as `linux x86_64`.
    pub system: String,
    /// Processor.
    pub cpu: Cpu,
    /// Main memory.
    pub memory: Memory,
    /// Limits on this process.
    pub limits: Limits,
    /// Accelerators, by bus address.
    pub gpus: Vec<Gpu>,
}

impl Machine {
    /// Looks at the machine this runs on. What cannot be read is left at zero or empty.
    pub fn detect() -> Self {
        #[cfg(target_os = "macos")]
        {
            macos::detect()
        }
        #[cfg(not(target_os = "macos"))]
        {
            Self::read(&Files::at(Path::new("/")))
        }
    }

    /// Reads a machine from the files of a Linux system.
    fn read(files: &Files) -> Self {
        Self {
            system: system(),
            cpu: Cpu::read(files),
            memory: Memory::read(files),
            limits: Limits::read(files),
            gpus: Gpu::read_all(files),
        }
    }
}

fn system() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// A file system to read from, so that tests can lay one out.
#[derive(Clone, Debug)]
struct Files {
    root: PathBuf,
}

impl Files {
    fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The text of a file without surrounding white space, if it can be read.
    fn text(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// The names in a directory in order; none if it cannot be read.
    fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files in it.
    pub(super) fn laid_out(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let files = Files::at(dir.path());
        (dir, files)
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let machine = Machine::detect();
        assert!(machine.cpu.n_threads > 0);
        assert!(machine.memory.total > 1 << 20, "{:?}", machine.memory);
        assert!(machine.memory.usable() <= machine.memory.total);
    }

    #[test]
    fn an_empty_system_is_read_without_complaint() {
        let (_dir, files) = laid_out(&[]);
        let machine = Machine::read(&files);
        assert_eq!(machine.memory.total, 0);
        assert!(machine.gpus.is_empty());
    }
}
