//! The clients, from their registries, at the versions that were looked at.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::process::run;

const PYTHON: &[&str] = &["openai==3.54.0", "anthropic==2.12.0"];
const NODE: &[&str] = &[
    "ai@6.0.326",
    "@ai-sdk/openai-compatible@2.0.91",
    "@ai-sdk/anthropic@3.0.139",
    "@ai-sdk/openai@3.0.141",
    "zod@4.6.7",
    "@openai/codex@0.169.0",
    "@anthropic-ai/claude-code@2.1.197",
    "opencode-ai@1.18.33",
];
/// Where the scripts are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e");

/// Programs that are there now.
pub(super) struct Installed {
    pub(super) python: PathBuf,
    pub(super) node: PathBuf,
    /// Where packages of node are, and the agents in `node_modules/.bin`.
    pub(super) packages: PathBuf,
}

/// Installs what is not there yet, and nothing outside of `root`.
pub(super) fn all(root: &Path) -> anyhow::Result<Installed> {
    let (python, packages) = (root.join("python"), root.join("node"));
    std::fs::create_dir_all(&packages)?;
    once(&python.join("installed"), PYTHON, || {
        step(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
        step(Command::new(python.join("bin/pip")).args(["install", "--quiet"]).args(PYTHON))
    })?;
    once(&packages.join("installed"), NODE, || {
        std::fs::write(packages.join("package.json"), r#"{"private": true, "type": "module"}"#)?;
        let flags = ["install", "--no-audit", "--no-fund", "--loglevel", "error"];
        step(Command::new("npm").args(flags).args(NODE).current_dir(&packages))?;
        // These two put the program of this platform, which npm has brought, in its place.
        for (package, script) in
            [("@anthropic-ai/claude-code", "install.cjs"), ("opencode-ai", "postinstall.mjs")]
        {
            let directory = packages.join("node_modules").join(package);
            step(Command::new("node").arg(script).current_dir(directory))?;
        }
        Ok(())
    })?;
    let python = python.join("bin/python");
    Ok(Installed { python, node: PathBuf::from("node"), packages })
}

/// Where a script can be run. Those of node find packages only above themselves.
pub(super) fn script(installed: &Installed, name: &str) -> anyhow::Result<PathBuf> {
    let source = Path::new(SCRIPTS).join(name);
    if !name.ends_with(".mjs") {
        return Ok(source);
    }
    let copy = installed.packages.join(name);
    std::fs::copy(&source, &copy).with_context(|| format!("cannot copy {}", source.display()))?;
    Ok(copy)
}

/// Does something unless `mark` says that it was done for these versions.
fn once(
    mark: &Path,
    versions: &[&str],
    install: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let versions = versions.join("\n");
    if std::fs::read_to_string(mark).is_ok_and(|held| held == versions) {
        return Ok(());
    }
    install()?;
    Ok(std::fs::write(mark, versions)?)
}

fn step(command: &mut Command) -> anyhow::Result<()> {
    let mut owned = Command::new(command.get_program());
    owned.args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        owned.current_dir(directory);
    }
    eprintln!("{owned:?}");
    let done = run(owned, Duration::from_secs(600))?;
    if !done.is_success {
        bail!("{command:?}: {}", done.last_lines(5));
    }
    Ok(())
}
