//! `keid doctor`: what was found, what can run, what is wrong and how to mend it.

use std::io::Write;
use std::path::PathBuf;

use backend_cuda::Cuda;
use tools::doctor::{Built, KvDirectory, Report, Severity, examine};
use tools::machine::Machine;

use crate::Context;
use crate::print::{self, FAINT, HEADING, Table};

/// Flags of `keid doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Takes a few seconds: it measures the memory and the disk.

Examples:
  keid doctor
  keid doctor --kv-dir /mnt/ssd/keid
  keid doctor --json | jq .findings")]
pub(crate) struct Args {
    /// Directory that KV pages would be kept in [default: the cache directory]
    #[arg(long, value_name = "DIR")]
    kv_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The backends that this binary contains.
const BUILT: Built = Built { cuda: true, wgpu: false };

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let kv_dir = self.kv_dir.clone().unwrap_or_else(crate::dirs::cache);
        let mut report = examine(&kv_dir, BUILT);
        ask_the_gpu(&mut report);
        if self.json {
            writeln!(context.out, "{}", serde_json::to_string_pretty(&report)?)?;
            return Ok(());
        }
        print(&mut *context.out, &report)
    }
}

/// Whether a GPU can be used is known once it has been opened.
fn ask_the_gpu(report: &mut Report) {
    let opened = Cuda::open(0).map_err(anyhow::Error::from);
    let found = opened.and_then(|cuda| Ok((cuda.description().clone(), cuda.memory()?)));
    if let Some(backend) = report.backends.iter_mut().find(|backend| backend.name == "cuda") {
        (backend.usable, backend.why) = match found {
            Ok((device, (free, total))) => {
                let arch = format!("{}.{}", device.arch / 10, device.arch % 10);
                let (free, total) = (print::bytes(free), print::bytes(total));
                let sms = device.sms;
                let name = device.name;
                (true, format!("{name}, {arch}, {sms} multiprocessors, {free} free of {total}"))
            }
            Err(error) => (false, format!("{error:#}")),
        };
    }
    report.backends.sort_by_key(|backend| !backend.usable);
}

fn print(out: &mut dyn Write, report: &Report) -> anyhow::Result<()> {
    print_machine(out, &report.machine, report.bandwidth)?;
    print_kv_directory(out, &report.kv_directory)?;

    writeln!(out, "\n{HEADING}Backends{HEADING:#}")?;
    let mut table = Table::new(["", "", ""]).text_from(0);
    for (i, backend) in report.backends.iter().enumerate() {
        let mark = match (i, backend.usable) {
            (0, true) => "chosen",
            (_, true) => "usable",
            (_, false) => "-",
        };
        table.row([backend.name.to_owned(), mark.to_owned(), backend.why.clone()]);
    }
    table.print(out)?;

    writeln!(out, "\n{HEADING}Findings{HEADING:#}")?;
    if report.findings.is_empty() {
        writeln!(out, "  Nothing to mend.")?;
    }
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Problem => "problem",
            Severity::Slow => "slow",
            Severity::Note => "note",
        };
        writeln!(out, "  {severity}: {}", finding.what)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "    {FAINT}→ {remedy}{FAINT:#}")?;
        }
    }
    Ok(())
}

fn print_machine(
    out: &mut dyn Write,
    machine: &Machine,
    bandwidth: [f64; 2],
) -> anyhow::Result<()> {
    writeln!(out, "{HEADING}Machine{HEADING:#}")?;
    let mut table = Table::new(["", ""]).text_from(1);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let cpu = &machine.cpu;
    row("keid", format!("{} on {}", crate::version(), machine.system));
    row("processor", cpu.name.clone());
    let cache = print::bytes(cpu.cache);
    let nodes = match cpu.n_numa_nodes {
        1 => "1 memory node".to_owned(),
        n => format!("{n} memory nodes"),
    };
    row("", format!("{} cores, {} threads, {nodes}, cache {cache}", cpu.n_cores, cpu.n_threads));
    row("instruction sets", cpu.features.join(" "));
    let memory = &machine.memory;
    let (total, free) = (print::bytes(memory.usable()), print::bytes(memory.free()));
    row("memory", format!("{total}, {free} free, {} swap", print::bytes(memory.swap)));
    let [one, all] = bandwidth.map(print::rate);
    row("reads", format!("{one} GB/s on one thread, {all} GB/s on all"));
    let huge = match memory.transparent_huge_pages.as_str() {
        "" => "unknown",
        mode => mode,
    };
    let reserved = print::bytes(memory.huge_pages);
    row("huge pages", format!("transparent: {huge}, set aside: {reserved}"));
    let locked = machine.limits.locked_memory.map_or("unlimited".to_owned(), print::bytes);
    row("lockable memory", locked);
    for gpu in &machine.gpus {
        let memory = gpu.memory.map_or("memory unknown".to_owned(), print::bytes);
        let driver = gpu.driver.as_deref().unwrap_or("no driver");
        row("GPU", format!("{}, {memory}, {driver}, at {}", gpu.name, gpu.address));
    }
    if machine.gpus.is_empty() {
        row("GPU", "none".to_owned());
    }
    Ok(table.print(out)?)
}

fn print_kv_directory(out: &mut dyn Write, kv: &KvDirectory) -> anyhow::Result<()> {
    writeln!(out, "\n{HEADING}Disk for KV pages{HEADING:#}")?;
    let free = kv.free.map_or("unknown".to_owned(), print::bytes);
    writeln!(out, "  {}: {free} free", kv.path.display())?;
    if let Some(speed) = kv.speed {
        let (write, read) = (print::rate(speed.write), print::rate(speed.read));
        writeln!(out, "  writes {write} MB/s, reads {read} MB/s")?;
    }
    Ok(())
}
