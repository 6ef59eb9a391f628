//! What a machine can do, what is wrong with it, and how to mend it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::bandwidth::Probe;
use crate::disk::{self, DiskSpeed};
use crate::machine::{Gpu, Machine, Vendor};

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// Measured read bandwidth of main memory in GB/s: one thread, all threads.
    pub bandwidth: [f64; 2],
    /// Where KV pages would be kept.
    pub kv_directory: KvDirectory,
    /// What each backend can do, the one that would be chosen first.
    pub backends: Vec<Backend>,
    /// What is good, worth knowing, or wrong.
    pub findings: Vec<Finding>,
}

/// A directory for KV pages.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KvDirectory {
    /// The directory, or the nearest one above it that exists.
    pub path: PathBuf,
    /// Free bytes; `None` if it cannot be looked at.
    pub free: Option<u64>,
    /// Measured speed; `None` if nothing can be written.
    pub speed: Option<DiskSpeed>,
}

/// A backend and its prospects here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether it can run.
    pub usable: bool,
    /// What it would run on, or why it cannot.
    pub why: String,
}

/// Something that was noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was noticed, with its numbers.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Keeps a backend from running.
    Problem,
    /// Costs speed.
    Slow,
    /// Worth knowing.
    Note,
}

/// Which accelerators' backends this build contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// CUDA.
    pub cuda: bool,
    /// Metal and Vulkan.
    pub wgpu: bool,
}

/// Looks at this machine and measures its memory and the disk under `kv_directory`. Takes about
/// two seconds.
pub fn examine(kv_directory: &Path, built: Built) -> Report {
    let machine = Machine::detect();
    let all = NonZeroUsize::new(machine.cpu.n_threads).unwrap_or(NonZeroUsize::MIN);
    let bandwidth = [Probe::quick(NonZeroUsize::MIN).measure(), Probe::quick(all).measure()];
    let kv_directory = KvDirectory::measure(kv_directory);
    let backends = backends(&machine, built);
    let mut findings = findings(&machine, built);
    findings.extend(kv_directory.findings());
    findings.sort_by_key(|finding| finding.severity);
    Report { machine, bandwidth, kv_directory, backends, findings }
}

impl KvDirectory {
    fn measure(wanted: &Path) -> Self {
        let exists = |path: &&Path| path.is_dir();
        let path = wanted.ancestors().find(exists).unwrap_or(Path::new("."));
        const BYTES: usize = 128 << 20;
        let free = disk::free_space(path).ok();
        let roomy = free.is_some_and(|free| free > 4 * BYTES as u64);
        let speed = if roomy { disk::speed(path, BYTES).ok() } else { None };
        Self { path: path.to_owned(), free, speed }
    }

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let path = self.path.display();
        match (self.free, self.speed) {
            (None, _) => found.push(Finding {
                severity: Severity::Note,
                what: format!("the directory for KV pages, {path}, cannot be read"),
                remedy: Some("choose another one".to_owned()),
            }),
            (Some(free), _) if free < 8 << 30 => found.push(Finding {
                severity: Severity::Note,
                what: format!("{path} has only {} free for KV pages", gib(free)),
                remedy: Some("free some space or keep KV pages on another disk".to_owned()),
            }),
            (_, None) => found.push(Finding {
                severity: Severity::Note,
                what: format!("nothing can be written to {path}"),
                remedy: Some("keep KV pages in a directory of yours".to_owned()),
            }),
            // Reading a page must beat computing it: a token is about 3.5 KB, and prefill makes
            // a thousand tokens a second or fewer.
            (_, Some(speed)) if speed.read < 50.0 => found.push(Finding {
                severity: Severity::Slow,
                what: format!("{path} reads only {:.0} MB/s", speed.read),
                remedy: Some("keep KV pages on a local SSD".to_owned()),
            }),
            _ => {}
        }
        found
    }
}

/// What each backend can do here, best first.
fn backends(machine: &Machine, built: Built) -> Vec<Backend> {
    let names = |vendor: Vendor| {
        let gpus = machine.gpus.iter().filter(|gpu| gpu.vendor == vendor && gpu.driver.is_some());
        gpus.map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let nvidia = names(Vendor::Nvidia);
    let cuda = match (built.cuda, nvidia.is_empty()) {
        (true, false) => (true, nvidia),
        (true, true) => (false, "no NVIDIA GPU with a driver".to_owned()),
        (false, false) => (false, format!("{nvidia} is here, but this build has no CUDA")),
        (false, true) => (false, "not in this build, and no NVIDIA GPU is here".to_owned()),
    };
    let other = [names(Vendor::Apple), names(Vendor::Amd), names(Vendor::Intel)];
    let other = other.into_iter().find(|names| !names.is_empty()).unwrap_or_default();
    let wgpu = match (built.wgpu, other.is_empty()) {
        (true, false) => (true, other),
        (true, true) => (false, "no GPU with a Metal or Vulkan driver".to_owned()),
        (false, false) => {
            (false, format!("{other} is here, but this build has no Metal or Vulkan"))
        }
        (false, true) => (false, "not in this build".to_owned()),
    };
    let cpu = &machine.cpu;
    let threads = format!(
        "{} threads on {} cores, {} kernels",
        cpu.n_threads,
        cpu.n_cores,
        cpu.best_kernels()
    );
    let mut backends = [
        ("cuda", cuda),
        ("wgpu", wgpu),
        ("cpu", (true, threads)),
        ("reference", (true, "one thread, for checking the others".to_owned())),
    ]
    .map(|(name, (usable, why))| Backend { name, usable, why });
    backends.sort_by_key(|backend| !backend.usable);
    backends.to_vec()
}

fn findings(machine: &Machine, built: Built) -> Vec<Finding> {
    let mut found = processor(machine);
    found.extend(memory(machine));
    found.extend(machine.gpus.iter().filter_map(|gpu| accelerator(gpu, built)));
    found
}

fn processor(machine: &Machine) -> Vec<Finding> {
    let cpu = &machine.cpu;
    let mut found = Vec::new();
    let x86 = machine.system.ends_with("x86_64");
    if x86 && !cpu.has(&["avx2", "fma", "f16c"]) {
        found.push(Finding {
            severity: Severity::Slow,
            what: format!("{} shows no AVX2: portable kernels, several times slower", cpu.name),
            remedy: Some("in a virtual machine, pass the host's CPU type through".to_owned()),
        });
    } else if cpu.best_kernels() == "portable" {
        found.push(Finding {
            severity: Severity::Slow,
            what: format!("{} has none of the known vector instructions", cpu.name),
            remedy: None,
        });
    }
    if cpu.n_numa_nodes > 1 {
        found.push(Finding {
            severity: Severity::Note,
            what: format!("{} memory nodes: placement decides the speed", cpu.n_numa_nodes),
            remedy: Some("use all cores, or keep to one node with numactl".to_owned()),
        });
    }
    found
}

fn memory(machine: &Machine) -> Vec<Finding> {
    let memory = &machine.memory;
    let mut found = Vec::new();
    if let Some(limit) = memory.cgroup_limit {
        found.push(Finding {
            severity: Severity::Note,
            what: format!(
                "a control group limits memory to {} of {}",
                gib(limit),
                gib(memory.total)
            ),
            remedy: Some("raise the container's or the service's memory limit".to_owned()),
        });
    }
    if memory.free() < memory.usable() / 2 {
        found.push(Finding {
            severity: Severity::Slow,
            what: format!(
                "other programs hold {} of {}",
                gib(memory.usable() - memory.free()),
                gib(memory.usable())
            ),
            remedy: Some("close what is not needed before loading a large model".to_owned()),
        });
    }
    if memory.transparent_huge_pages == "never" {
        found.push(Finding {
            severity: Severity::Slow,
            what: "transparent huge pages are off: more address translation per byte".to_owned(),
            remedy: Some("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled".to_owned()),
        });
    }
    if let Some(limit) = machine.limits.address_space {
        found.push(Finding {
            severity: Severity::Problem,
            what: format!(
                "address space is limited to {}: larger files cannot be mapped",
                gib(limit)
            ),
            remedy: Some("ulimit -v unlimited".to_owned()),
        });
    }
    if let (Some(limit), true) = (memory.gpu_wired_limit, memory.total > 64 << 30) {
        let raised = memory.total.saturating_sub(crate::plan::memory::system_share(memory.total));
        if limit < raised {
            found.push(Finding {
                severity: Severity::Note,
                what: format!("the GPU may use {} of {}", gib(limit), gib(memory.total)),
                remedy: Some(format!("sudo sysctl iogpu.wired_limit_mb={}", raised >> 20)),
            });
        }
    }
    found
}

fn accelerator(gpu: &Gpu, built: Built) -> Option<Finding> {
    let in_build = if gpu.vendor == Vendor::Nvidia { built.cuda } else { built.wgpu };
    match &gpu.driver {
        None => Some(Finding {
            severity: Severity::Problem,
            what: format!("{} at {} has no driver", gpu.name, gpu.address),
            remedy: Some(format!("install {}'s driver for this kernel", gpu.vendor.name())),
        }),
        Some(driver) if gpu.vendor == Vendor::Nvidia && driver != "nvidia" => Some(Finding {
            severity: Severity::Problem,
            what: format!("{} is bound to {driver}, which CUDA cannot use", gpu.name),
            remedy: Some("install NVIDIA's driver for this kernel".to_owned()),
        }),
        Some(_) if !in_build => Some(Finding {
            severity: Severity::Note,
            what: format!("{} stays unused: this build has no backend for it", gpu.name),
            remedy: None,
        }),
        Some(_) => None,
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let mut machine = Machine { system: "linux x86_64".into(), ..Machine::default() };
        machine.cpu.n_threads = 8;
        machine.cpu.n_cores = 4;
        machine.cpu.features = ["avx2", "fma", "f16c"].map(String::from).to_vec();
        machine.memory.total = 64 << 30;
        machine.memory.available = 60 << 30;
        machine
    }

    fn gpu(driver: Option<&str>) -> Gpu {
        Gpu {
            vendor: Vendor::Nvidia,
            name: "NVIDIA H200".into(),
            address: "0000:01:00.0".into(),
            memory: Some(141 << 30),
            driver: driver.map(String::from),
        }
    }

    const CPU_ONLY: Built = Built { cuda: false, wgpu: false };
    const WITH_CUDA: Built = Built { cuda: true, wgpu: false };

    #[test]
    fn a_healthy_machine_has_nothing_to_mend() {
        assert_eq!(findings(&machine(), CPU_ONLY), []);
    }

    #[test]
    fn a_usable_gpu_is_chosen_before_the_processor() {
        let with = |driver| Machine { gpus: vec![gpu(driver)], ..machine() };
        let first = |machine: &Machine, built| backends(machine, built)[0].clone();
        assert_eq!(first(&with(Some("nvidia")), WITH_CUDA).name, "cuda");
        assert_eq!(first(&with(Some("nvidia")), CPU_ONLY).name, "cpu");
        assert_eq!(first(&with(None), WITH_CUDA).name, "cpu");
        let problem = accelerator(&gpu(Some("nouveau")), WITH_CUDA).unwrap();
        assert_eq!(problem.severity, Severity::Problem);
        assert!(problem.what.contains("nouveau") && problem.remedy.is_some());
    }

    #[test]
    fn what_is_wrong_comes_with_its_remedy() {
        let mut sick = machine();
        sick.cpu.features.clear();
        sick.memory.cgroup_limit = Some(8 << 30);
        sick.memory.available = 1 << 30;
        sick.memory.transparent_huge_pages = "never".into();
        sick.limits.address_space = Some(16 << 30);
        let found = findings(&sick, CPU_ONLY);
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(found.iter().all(|finding| finding.remedy.is_some()), "{found:#?}");
    }

    #[test]
    fn a_directory_that_does_not_exist_is_judged_by_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let found = KvDirectory::measure(&dir.path().join("a/b/c"));
        assert_eq!(found.path, dir.path());
        assert!(found.free.is_some());
    }
}
