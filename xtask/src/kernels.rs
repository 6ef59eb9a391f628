//! `cargo xtask kernels`: compiles the CUDA kernels, for embedding or as a check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};

/// Compile the CUDA kernels for every architecture, to be embedded by the next build
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep nothing; fail on a warning, and on a register spill that its file does not announce
    #[arg(long)]
    check: bool,
    /// Architectures
    #[arg(
        long,
        value_name = "SM,…",
        value_delimiter = ',',
        default_value = "80,90a,100a,120a,121a"
    )]
    arch: Vec<String>,
    /// Only modules whose name contains this
    #[arg(long, default_value = "")]
    module: String,
    /// The compiler [default: `nvcc` on the path, or PyPI's in `target/nvcc`, installed if needed]
    #[arg(long, value_name = "NVCC")]
    nvcc: Option<PathBuf>,
}

/// What PyPI calls the parts of the compiler. The driver 580 takes code of CUDA 13.0, no newer.
const PACKAGES: [&str; 4] = [
    "nvidia-cuda-nvcc==13.0.*",
    "nvidia-nvvm==13.0.*",
    "nvidia-cuda-crt==13.0.*",
    "nvidia-cuda-runtime==13.0.*",
];

struct Job {
    arch: String,
    module: String,
}

impl Args {
    /// Compiles every module for every architecture.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cuda = root.join("crates/backend-cuda/cuda");
        let out = root.join("target/kernels");
        let nvcc = match &self.nvcc {
            Some(path) => path.clone(),
            None => find_nvcc(&root)?,
        };
        let sources = files(&cuda, "")?;
        let modules = sources.keys().filter_map(|name| name.strip_suffix(".cu"));
        let modules: Vec<&str> = modules.filter(|m| m.contains(&self.module)).collect();
        let job =
            |arch: &String, module: &&str| Job { arch: arch.clone(), module: (*module).to_owned() };
        let jobs: Vec<Job> =
            self.arch.iter().flat_map(|arch| modules.iter().map(move |m| job(arch, m))).collect();
        // Stale code must not be taken for these sources'.
        let _ = fs::remove_file(out.join("sources"));
        let faults = compile_all(&jobs, &nvcc, &cuda, &out)?;
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        if self.check {
            fs::remove_dir_all(&out).with_context(|| format!("cannot empty {}", out.display()))?;
        } else {
            fs::write(out.join("sources"), digest(&sources)?)?;
        }
        println!("{} modules for {}", modules.len(), self.arch.join(", "));
        Ok(())
    }
}

/// Compiles on all processors; what is wrong, job by job.
fn compile_all(jobs: &[Job], nvcc: &Path, cuda: &Path, out: &Path) -> anyhow::Result<Vec<String>> {
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> anyhow::Result<()> {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(fault) = compile(job, nvcc, cuda, out)? {
                faults.lock().map_err(|_| anyhow::anyhow!("a compiler thread died"))?.push(fault);
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    faults.into_inner().map_err(|_| anyhow::anyhow!("a compiler thread died"))
}

/// One module for one architecture; what is wrong with it.
fn compile(job: &Job, nvcc: &Path, cuda: &Path, out: &Path) -> anyhow::Result<Option<String>> {
    let source = cuda.join(format!("{}.cu", job.module));
    let to = out.join(format!("sm_{}", job.arch)).join(format!("{}.cubin", job.module));
    fs::create_dir_all(to.parent().unwrap_or(out))?;
    let mut command = Command::new(nvcc);
    // The shorthand `-arch` also checks a plain target, which lacks instructions of the `a` ones.
    command.arg(format!("-gencode=arch=compute_{0},code=sm_{0}", job.arch));
    command.args(["-cubin", "-O3", "-std=c++17", "-Xptxas", "-v", "-Werror", "all-warnings"]);
    command.arg("-I").arg(cuda).arg(&source).arg("-o").arg(&to);
    let done = command.output().with_context(|| format!("cannot run {}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    let name = format!("{}.cu for sm_{}", job.module, job.arch);
    if !done.status.success() {
        return Ok(Some(format!("{name}: {said}")));
    }
    let announced = fs::read_to_string(&source)?;
    let spills: Vec<String> = spilling(&said)
        .into_iter()
        .filter(|kernel| !announced.contains(&format!("// spills: {kernel}")))
        .collect();
    Ok((!spills.is_empty()).then(|| format!("{name}: registers spill in {}", spills.join(", "))))
}

/// Kernels that the assembler's report names before a line with spilled bytes.
fn spilling(report: &str) -> Vec<String> {
    let (mut kernel, mut found) = (String::new(), Vec::new());
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
        }
        if line.contains("bytes spill stores") && !line.contains(" 0 bytes spill stores, 0 bytes") {
            found.push(kernel.clone());
        }
    }
    found
}

fn find_nvcc(root: &Path) -> anyhow::Result<PathBuf> {
    if Command::new("nvcc").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return Ok(PathBuf::from("nvcc"));
    }
    let env = root.join("target/nvcc");
    if let Some(found) = installed(&env) {
        return Ok(found);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&env))?;
    run(Command::new(env.join("bin/pip")).args(["install", "-q"]).args(PACKAGES))?;
    installed(&env).with_context(|| format!("no nvcc in {} after installing it", env.display()))
}

/// `lib/python3.*/site-packages/nvidia/cu13/bin/nvcc`.
fn installed(env: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(env.join("lib")).ok()?.flatten();
    let place = "site-packages/nvidia/cu13/bin/nvcc";
    versions.map(|version| version.path().join(place)).find(|path| path.exists())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let done = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if done.success() { Ok(()) } else { bail!("{command:?} failed") }
}

/// Every file below `dir` by its path from there.
fn files(dir: &Path, prefix: &str) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(files(&entry.path(), &format!("{name}/"))?);
        } else {
            found.insert(name, entry.path());
        }
    }
    Ok(found)
}

/// As in `crates/backend-cuda/build.rs`, which embeds compiled kernels of the same sources only.
fn digest(sources: &BTreeMap<String, PathBuf>) -> anyhow::Result<String> {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    };
    for (name, path) in sources {
        add(name.as_bytes());
        add(&[0]);
        add(&fs::read(path)?);
        add(&[0]);
    }
    Ok(format!("{hash:016x}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spill_is_seen() {
        let report = "ptxas info    : Compiling entry function 'one' for 'sm_80'\n\
                      0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                      ptxas info    : Compiling entry function 'two' for 'sm_80'\n\
                      8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n";
        assert_eq!(spilling(report), ["two"]);
    }
}
