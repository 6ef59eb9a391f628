//! Writes two tables: the kernels' sources, and the compiled kernels where `cargo xtask kernels` has
//! made them for exactly these sources.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("cuda"), "");
    let mut text = String::from("pub(crate) static SOURCES: &[(&str, &str)] = &[\n");
    for (name, path) in &sources {
        let _ = writeln!(text, "    ({name:?}, include_str!({path:?})),");
    }
    text.push_str("];\npub(crate) static COMPILED: &[(&str, &str, &[u8])] = &[\n");
    let compiled = root.join("../../target/kernels");
    println!("cargo:rerun-if-changed={}", root.join("cuda").display());
    println!("cargo:rerun-if-changed={}", compiled.display());
    // Kernels of other sources than these would compute something else.
    let fresh = fs::read_to_string(compiled.join("sources")).is_ok_and(|s| s == digest(&sources));
    if fresh {
        for (arch, stem, path) in cubins(&compiled) {
            let _ = writeln!(text, "    ({arch:?}, {stem:?}, include_bytes!({path:?})),");
        }
    }
    text.push_str("];\n");
    let out = Path::new(&env("OUT_DIR")).join("kernels.rs");
    fs::write(&out, text).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}

// Cargo tells build scripts through the environment where they are.
#[allow(clippy::disallowed_methods)]
fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|e| panic!("cargo sets {name}: {e}"))
}

/// Every file below `dir` by its path from there.
fn sources(dir: &Path, prefix: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => found.extend(sources(&entry.path(), &format!("{name}/"))),
            false => {
                found.insert(name, entry.path());
            }
        }
    }
    found
}

/// Names and contents as one number; `cargo xtask kernels` writes the same.
fn digest(sources: &BTreeMap<String, PathBuf>) -> String {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    };
    for (name, path) in sources {
        add(name.as_bytes());
        add(&[0]);
        add(&fs::read(path).unwrap_or_default());
        add(&[0]);
    }
    format!("{hash:016x}\n")
}

/// `<arch>/<stem>.cubin` below `dir`; stems may have folders.
fn cubins(dir: &Path) -> Vec<(String, String, PathBuf)> {
    let mut found = Vec::new();
    for (name, path) in sources(dir, "") {
        let Some(name) = name.strip_suffix(".cubin") else { continue };
        if let Some((arch, stem)) = name.split_once('/') {
            found.push((arch.to_owned(), stem.to_owned(), path));
        }
    }
    found
}
