//! The processor: names, cores, instruction sets that the kernels know, memory nodes.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Files;

/// A processor, or several of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The vendor's name for it.
    pub name: String,
    /// Physical cores that this process may use.
    pub n_cores: usize,
    /// Hardware threads that this process may use.
    pub n_threads: usize,
    /// Memory nodes; more than one means that memory is near some cores and far from others.
    pub n_numa_nodes: usize,
    /// Last-level cache in bytes, of one instance.
    pub cache: u64,
    /// Instruction sets that kernels are written for, as the kernel names them.
    pub features: Vec<String>,
}

/// Instruction sets that matter here, by their names in `/proc/cpuinfo` of x86-64 and Arm.
const RELEVANT: [&str; 19] = [
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512vbmi",
    "gfni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve2",
];

impl Cpu {
    /// Whether all of these instruction sets are there.
    pub fn has(&self, features: &[&str]) -> bool {
        features.iter().all(|wanted| self.features.iter().any(|found| found == wanted))
    }

    /// The fastest family of kernels that this processor can run, for reports.
    pub fn best_kernels(&self) -> &'static str {
        let vbmi = self.has(&["avx512bw", "avx512_vnni", "avx512vbmi", "gfni"]);
        if vbmi && self.has(&["amx_tile", "amx_int8"]) {
            "AMX int8"
        } else if vbmi {
            "AVX-512 VNNI and VBMI"
        } else if self.has(&["avx512bw", "avx512_vnni"]) {
            "AVX-512 VNNI"
        } else if self.has(&["avx2", "fma", "f16c"]) {
            "AVX2"
        } else if self.has(&["asimd", "i8mm"]) {
            "NEON i8mm"
        } else if self.has(&["asimd", "asimddp"]) {
            "NEON dot product"
        } else if self.has(&["asimd"]) {
            "NEON"
        } else {
            "portable"
        }
    }

    pub(super) fn read(files: &Files) -> Self {
        let info = files.text("proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()))
        };
        let flags = field("flags").or_else(|| field("Features")).unwrap_or_default();
        let flags: BTreeSet<&str> = flags.split_whitespace().collect();
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        let name = field("model name")
            .or_else(|| field("Model"))
            .filter(|name| !name.is_empty())
            .or_else(|| Some(arm_core(&field("CPU implementer")?, &field("CPU part")?).to_owned()));
        Self {
            name: name.unwrap_or_else(|| "unknown processor".to_owned()),
            n_cores: cores(files).unwrap_or(n_threads).min(n_threads),
            n_threads,
            n_numa_nodes: numa_nodes(files).max(1),
            cache: last_level_cache(files),
            features: RELEVANT
                .iter()
                .filter(|f| flags.contains(**f))
                .map(|f| f.to_string())
                .collect(),
        }
    }
}

/// Arm processors name themselves by numbers: the designer's, the core's, and what people call it. From
/// the designers' manuals (main ID register, `MIDR_EL1`).
const ARM_CORES: [(&str, &str, &str); 17] = [
    ("0x41", "0xd08", "Cortex-A72"),
    ("0x41", "0xd0b", "Cortex-A76"),
    ("0x41", "0xd0c", "Neoverse N1"),
    ("0x41", "0xd40", "Neoverse V1"),
    ("0x41", "0xd49", "Neoverse N2"),
    ("0x41", "0xd4f", "Neoverse V2"),
    ("0x41", "0xd84", "Neoverse V3"),
    ("0x41", "0xd8e", "Neoverse N3"),
    ("0x41", "0xd80", "Cortex-A520"),
    ("0x41", "0xd81", "Cortex-A720"),
    ("0x41", "0xd82", "Cortex-X4"),
    ("0x41", "0xd85", "Cortex-X925"),
    ("0x41", "0xd87", "Cortex-A725"),
    ("0x48", "0xd01", "Kunpeng 920"),
    ("0x51", "0x001", "Oryon"),
    ("0xc0", "0xac3", "Ampere-1"),
    ("0xc0", "0xac4", "Ampere-1a"),
];

fn arm_core(implementer: &str, part: &str) -> &'static str {
    let found = ARM_CORES.iter().find(|core| (core.0, core.1) == (implementer, part));
    found.map_or("Arm processor", |(_, _, name)| name)
}

/// Distinct groups of sibling threads.
fn cores(files: &Files) -> Option<usize> {
    let base = "sys/devices/system/cpu";
    let is_cpu = |name: &&String| {
        name.strip_prefix("cpu")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let siblings: BTreeSet<String> = files
        .names(base)
        .iter()
        .filter(is_cpu)
        .filter_map(|cpu| files.text(&format!("{base}/{cpu}/topology/thread_siblings_list")))
        .collect();
    (!siblings.is_empty()).then_some(siblings.len())
}

fn numa_nodes(files: &Files) -> usize {
    let names = files.names("sys/devices/system/node");
    let is_node = |name: &&String| {
        name.strip_prefix("node").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    names.iter().filter(is_node).count()
}

/// The largest cache of the first core; sizes are written as `32768K`.
fn last_level_cache(files: &Files) -> u64 {
    let base = "sys/devices/system/cpu/cpu0/cache";
    let size = |index: &String| {
        let text = files.text(&format!("{base}/{index}/size"))?;
        let number: u64 = text.strip_suffix('K')?.parse().ok()?;
        number.checked_mul(1024)
    };
    files.names(base).iter().filter_map(size).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::laid_out;
    use super::*;

    #[test]
    fn cores_nodes_and_instruction_sets_are_found() {
        let cpu = "sys/devices/system/cpu";
        let (_dir, files) = laid_out(&[
            (
                "proc/cpuinfo",
                "processor : 0\nmodel name : Test 9000\nflags : fpu avx2 fma f16c amx\n",
            ),
            (&format!("{cpu}/cpu0/topology/thread_siblings_list"), "0,1"),
            (&format!("{cpu}/cpu1/topology/thread_siblings_list"), "0,1"),
            (&format!("{cpu}/cpufreq/x"), ""),
            (&format!("{cpu}/cpu0/cache/index0/size"), "32K"),
            (&format!("{cpu}/cpu0/cache/index3/size"), "32768K"),
            ("sys/devices/system/node/node0/x", ""),
            ("sys/devices/system/node/node1/x", ""),
            ("sys/devices/system/node/has_cpu", ""),
        ]);
        let cpu = Cpu::read(&files);
        assert_eq!((cpu.name.as_str(), cpu.n_cores, cpu.n_numa_nodes), ("Test 9000", 1, 2));
        assert_eq!((cpu.cache, cpu.best_kernels()), (32 << 20, "AVX2"));
        assert_eq!(cpu.features, ["avx2", "fma", "f16c"]);
    }

    #[test]
    fn arm_cores_have_names() {
        let cpuinfo = "processor : 0\nFeatures : fp asimd asimddp i8mm\n\
                       CPU implementer : 0x41\nCPU part : 0xd4f\n";
        let (_dir, files) = laid_out(&[("proc/cpuinfo", cpuinfo)]);
        let cpu = Cpu::read(&files);
        assert_eq!((cpu.name.as_str(), cpu.best_kernels()), ("Neoverse V2", "NEON i8mm"));
        let unnamed = cpuinfo.replace("0xd4f", "0xfff");
        let (_dir, files) = laid_out(&[("proc/cpuinfo", &unnamed)]);
        assert_eq!(Cpu::read(&files).name, "Arm processor");
    }
}
