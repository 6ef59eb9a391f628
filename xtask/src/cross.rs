//! `cargo xtask cross`: what the machine at hand cannot show. Kernels, CPU backend and laws are built for
//! 64-bit Arm and run under an emulator; everything is type-checked for macOS.
//!
//! This runs beside continuous integration, not in it: it needs tools that few machines have, and the
//! emulator is slow. It says which tools are missing and where they come from.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, bail, ensure};

/// Build and test for 64-bit Arm under an emulator, type-check for macOS
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to check, in this order
    #[arg(value_enum, default_values = ["kernels", "backend", "laws", "macos"])]
    checks: Vec<Check>,
    /// Use the tools in this root directory, made by `xtask/cross-root.sh`; needs root
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where to build, relative to the repository
    #[arg(long, value_name = "DIR", default_value = "target/cross")]
    target_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Check {
    /// The tests of `quant`, on three kinds of processor
    Kernels,
    /// The tests of `backend` and `backend-cpu`
    Backend,
    /// The laws of the engine
    Laws,
    /// Types of the whole program for macOS
    Macos,
}

const ARM: &str = "aarch64-unknown-linux-gnu";
const MACOS: &str = "aarch64-apple-darwin";

/// Emulated processors: with matrix instructions, with dot products only, with neither.
const PROCESSORS: [&str; 3] = ["max", "neoverse-n1", "cortex-a72"];

impl Args {
    /// Fails with the first check that does, or with the list of missing tools.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tools = Tools { root: self.root.as_deref(), repository: &repository };
        self.ensure_tools(&tools)?;
        for check in &self.checks {
            match check {
                Check::Kernels => self.kernels(&tools)?,
                Check::Backend => {
                    self.test(&tools, "max", &["-p", "backend", "-p", "backend-cpu"])?;
                }
                Check::Laws => self.test(&tools, "max", &["-p", "tests", "--test", "laws"])?,
                Check::Macos => self.macos(&tools)?,
            }
        }
        println!("cross: all checks passed");
        Ok(())
    }

    /// Every test once; then those that compare tables of kernels, on lesser processors.
    fn kernels(&self, tools: &Tools<'_>) -> anyhow::Result<()> {
        let [best, lesser @ ..] = PROCESSORS;
        self.test(tools, best, &["-p", "quant"])?;
        for processor in lesser {
            self.test(tools, processor, &["-p", "quant", "--lib", "dot::"])?;
        }
        Ok(())
    }

    fn test(&self, tools: &Tools<'_>, processor: &str, what: &[&str]) -> anyhow::Result<()> {
        println!("cross: {} on an emulated {processor}", what.join(" "));
        let mut cargo = tools.command("cargo");
        cargo.args(["test", "--release", "--target", ARM, "--target-dir"]).arg(&self.target_dir);
        cargo.args(what);
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
        let runner = format!("qemu-aarch64 -cpu {processor} -L /usr/aarch64-linux-gnu");
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
        run(cargo)
    }

    fn macos(&self, tools: &Tools<'_>) -> anyhow::Result<()> {
        println!("cross: types for {MACOS}");
        let mut cargo = tools.command("cargo");
        cargo.args(["check", "--release", "--target", MACOS, "--target-dir"]).arg(&self.target_dir);
        cargo.args(["-p", "cli"]);
        if !tools.has_std(MACOS)? {
            // The standard library is checked from source, which only unstable flags can ask for.
            cargo.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
        }
        // Crates that hold C or C++ want a compiler for macOS. A type check links nothing, so one that makes empty
        // files will do.
        let stand_in = tools.path("xtask/empty-cc.sh")?;
        cargo.env("CC_aarch64_apple_darwin", &stand_in).env("CXX_aarch64_apple_darwin", stand_in);
        cargo.env("AR_aarch64_apple_darwin", "true").env("SDKROOT", "/");
        run(cargo)
    }

    /// Fails with everything that is missing, what it is for, and where it comes from.
    fn ensure_tools(&self, tools: &Tools<'_>) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        let mut need = |found: bool, what: &str| {
            if !found {
                missing.push(format!("  {what}"));
            }
        };
        let rust = tools.runs("cargo") && tools.runs("rustc");
        need(rust, "cargo and rustc 1.95 or newer (Debian: cargo, rustc)");
        if self.checks.iter().any(|check| *check != Check::Macos) {
            need(
                rust && tools.has_std(ARM)?,
                "the standard library for Arm (rustup target add aarch64-unknown-linux-gnu; \
                 Debian: libstd-rust-dev:arm64)",
            );
            need(
                tools.runs("aarch64-linux-gnu-gcc"),
                "aarch64-linux-gnu-gcc, to link for Arm (Debian: gcc-aarch64-linux-gnu)",
            );
            need(
                tools.runs("qemu-aarch64"),
                "qemu-aarch64, to run what was built (Debian: qemu-user)",
            );
        }
        if self.checks.contains(&Check::Macos) {
            need(
                rust && (tools.has_std(MACOS)? || tools.has_std_source()?),
                "the standard library for macOS, or its source (rustup target add \
                 aarch64-apple-darwin; Debian: rust-src)",
            );
        }
        ensure!(
            missing.is_empty(),
            "these are missing:\n{}\n`xtask/cross-root.sh DIR` makes a root directory with all of \
             them, which `cargo xtask cross --root DIR` uses",
            missing.join("\n")
        );
        Ok(())
    }
}

/// Programs of this machine, or of a root directory that has the repository at `/keid` and cargo's home at
/// `/cargo`.
struct Tools<'a> {
    root: Option<&'a Path>,
    repository: &'a Path,
}

impl Tools<'_> {
    /// A program, to be run in the repository.
    fn command(&self, program: &str) -> Command {
        let Some(root) = self.root else {
            let mut command = Command::new(program);
            command.current_dir(self.repository);
            return command;
        };
        let mut command = Command::new("chroot");
        command.arg(root).args(["/usr/bin/env", "--chdir=/keid", "PATH=/usr/bin:/bin"]);
        command.args(["HOME=/root", "CARGO_HOME=/cargo", program]);
        // Those of the toolchain that runs this command are not meant for that one.
        for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTUP_HOME", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        command
    }

    /// The path by which the programs know a file of the repository.
    fn path(&self, file: &str) -> anyhow::Result<PathBuf> {
        match self.root {
            Some(_) => Ok(Path::new("/keid").join(file)),
            None => Ok(self.repository.canonicalize()?.join(file)),
        }
    }

    /// Whether a program exists: all of those here know the flag.
    fn runs(&self, program: &str) -> bool {
        self.command(program)
            .arg("--version")
            .output()
            .is_ok_and(|output: Output| output.status.success())
    }

    fn has_std(&self, target: &str) -> anyhow::Result<bool> {
        self.has_file("target-libdir", &["--target", target], "")
    }

    fn has_std_source(&self) -> anyhow::Result<bool> {
        self.has_file("sysroot", &[], "lib/rustlib/src/rust/library/std/Cargo.toml")
    }

    /// Whether a file exists below a directory that `rustc --print` tells.
    fn has_file(&self, directory: &str, flags: &[&str], file: &str) -> anyhow::Result<bool> {
        let output = self.command("rustc").args(["--print", directory]).args(flags).output()?;
        let printed = String::from_utf8(output.stdout).context("rustc prints a path")?;
        let path = Path::new(printed.trim()).join(file);
        Ok(output.status.success() && self.outside(&path).exists())
    }

    /// A path of the programs, seen from here.
    fn outside(&self, path: &Path) -> PathBuf {
        match self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{status}: {command:?}");
    }
    Ok(())
}
