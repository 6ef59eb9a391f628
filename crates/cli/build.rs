//! Tells the binary which commit it was built from and whether a model is embedded.
//! Neither is required: a build from a source archive has no commit and says so.

use std::path::Path;
use std::process::Command;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");

    println!("cargo:rustc-env=KEID_COMMIT={}", commit(&root).unwrap_or_default());
    // The log of HEAD changes with every commit and checkout, HEAD itself does not.
    for watched in [".git/HEAD", ".git/logs/HEAD"] {
        let path = root.join(watched);
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }

    println!("cargo:rustc-check-cfg=cfg(embedded_model)");
    let model = root.join("models/keid-tiny.gguf");
    // Watching the directory notices a model that appears later.
    println!("cargo:rerun-if-changed={}", root.join("models").display());
    if let (true, Ok(path)) = (model.is_file(), model.canonicalize()) {
        println!("cargo:rustc-cfg=embedded_model");
        println!("cargo:rustc-env=KEID_EMBEDDED_MODEL={}", path.display());
    }
}

/// The short hash of the commit checked out at `root`, if git can tell.
fn commit(root: &Path) -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
