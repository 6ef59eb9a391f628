//! macOS: memory and processor by `sysctl`, which needs neither `unsafe` nor a framework.

use std::process::Command;

use super::{Cpu, Gpu, Limits, Machine, Memory, Vendor, system};

pub(super) fn detect() -> Machine {
    let number = |name: &str| sysctl(name).and_then(|text| text.parse::<u64>().ok());
    let total = number("hw.memsize").unwrap_or_default();
    // 0 stands for the system's own choice.
    let wired = number("iogpu.wired_limit_mb").filter(|mib| *mib > 0).map(|mib| mib << 20);
    let name = sysctl("machdep.cpu.brand_string").unwrap_or_default();
    let features = [
        ("hw.optional.AdvSIMD", "asimd"),
        ("hw.optional.arm.FEAT_DotProd", "asimddp"),
        ("hw.optional.arm.FEAT_I8MM", "i8mm"),
        ("hw.optional.arm.FEAT_BF16", "bf16"),
    ];
    let found = features.iter().filter(|(key, _)| number(key) == Some(1));
    let cpu = Cpu {
        n_cores: number("hw.physicalcpu").unwrap_or(1) as usize,
        n_threads: number("hw.logicalcpu").unwrap_or(1) as usize,
        n_numa_nodes: 1,
        cache: number("hw.perflevel0.l2cachesize").unwrap_or_default(),
        features: found.map(|(_, name)| name.to_string()).collect(),
        name: name.clone(),
    };
    let memory = Memory {
        total,
        // macOS keeps no such figure; what is not wired can be had.
        available: total,
        gpu_wired_limit: Some(wired.unwrap_or_else(|| default_wired_limit(total))),
        ..Memory::default()
    };
    let gpu = Gpu {
        vendor: Vendor::Apple,
        name,
        address: "unified".to_owned(),
        memory: memory.gpu_wired_limit,
        driver: Some("Metal".to_owned()),
    };
    Machine { system: system(), cpu, memory, limits: Limits::default(), gpus: vec![gpu] }
}

/// What macOS lets the GPU wire unless `iogpu.wired_limit_mb` says otherwise: Metal's
/// `recommendedMaxWorkingSetSize`, two thirds of small memories and three quarters of others.
fn default_wired_limit(total: u64) -> u64 {
    if total <= 36 << 30 { total / 3 * 2 } else { total / 4 * 3 }
}

fn sysctl(name: &str) -> Option<String> {
    let output = Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
