//! Free space and speed of a disk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

/// Bytes that a user may still write to the file system that holds `directory`.
///
/// # Errors
/// Whatever the system says about the directory.
pub fn free_space(directory: &Path) -> io::Result<u64> {
    fs4::available_space(directory)
}

/// Sequential speed in MB/s (10⁶ bytes).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DiskSpeed {
    /// Writing, the final flush to the device included.
    pub write: f64,
    /// Reading back; from the page cache where the system cannot be asked to drop it.
    pub read: f64,
}

/// Writes `n_bytes` to a temporary file in `directory` and reads them back.
///
/// # Errors
/// Whatever the system says about the directory.
pub fn speed(directory: &Path, n_bytes: usize) -> io::Result<DiskSpeed> {
    const PART: usize = 4 << 20;
    let mut file = tempfile::tempfile_in(directory)?;
    // Not compressible, for file systems that compress.
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        (seed >> 56) as u8
    };
    let mut part: Vec<u8> = (0..PART).map(|_| next()).collect();
    let n_parts = n_bytes.div_ceil(PART).max(1);
    let rate = |start: Instant| (n_parts * PART) as f64 / start.elapsed().as_secs_f64() / 1e6;

    let start = Instant::now();
    for _ in 0..n_parts {
        file.write_all(&part)?;
    }
    file.sync_all()?;
    let write = rate(start);

    drop_cached(&file);
    file.seek(SeekFrom::Start(0))?;
    let start = Instant::now();
    for _ in 0..n_parts {
        file.read_exact(&mut part)?;
    }
    Ok(DiskSpeed { write, read: rate(start) })
}

/// Asks the system to forget what it caches of a file. Advice: where it is not taken, the
/// reading speed is that of the cache.
#[cfg(target_os = "linux")]
fn drop_cached(file: &std::fs::File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Asks the system to read past its cache. Advice, as on Linux.
#[cfg(target_os = "macos")]
fn drop_cached(file: &std::fs::File) {
    let _ = rustix::fs::fcntl_nocache(file, true);
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn drop_cached(_: &std::fs::File) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_has_space_and_a_speed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_space(dir.path()).unwrap() > 0);
        let speed = speed(dir.path(), 1 << 20).unwrap();
        assert!(speed.write > 0.0 && speed.read > 0.0);
        assert!(free_space(&dir.path().join("missing")).is_err());
    }
}
