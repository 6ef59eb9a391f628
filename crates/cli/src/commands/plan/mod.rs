//! `keid plan`: memory, context, speed and cost of a model on a machine, without weights.

mod cost;
mod tiers;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use gguf::Gguf;
use model::{Config, Preset};
use serde_json::json;
use tools::bandwidth::Probe;
use tools::inspect::inspect;
use tools::layout::tensors;
use tools::machine::Machine;
use tools::plan::{Budget, MemoryPlan, Needs, Rates, Speed, Work};

use super::shape::{PresetArg, QuantArg};
use crate::print::{self, FAINT, HEADING, Table};
use crate::{Context, open, values};

/// Flags of `keid plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --memory it plans for this machine: main memory, less the system's share, and each GPU.
Decode speed is bandwidth over bytes read per token. Typical bandwidths in GB/s: M4 Max 546,
M3 Ultra 819, DGX Spark 273, RTX PRO 6000 1792, H200 4800.

Examples:
  keid plan                                              Flash q2 on this machine
  keid plan --preset flash --quant q2 --memory 96GB      on one that is not here
  keid plan -m model.gguf --ctx 256K --bandwidth 546     a file, a context, a speed
  keid plan --tiers                                      the known machine sizes, explained
  keid plan --memory 128GB --bandwidth 546 --cost --hardware-price 5000 --rent-gpu 3.5")]
pub(crate) struct Args {
    /// The shape
    #[arg(long, value_enum, default_value = "flash")]
    preset: PresetArg,
    /// The mixture of storage types
    #[arg(long, value_enum, default_value = "q2")]
    quant: QuantArg,
    /// Plan for this file instead of a preset
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["preset", "quant"])]
    model: Option<PathBuf>,
    /// Memory of the machine to plan for [default: this machine's]
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    memory: Option<u64>,
    /// Memory left to the system and other programs [default: 5 GiB and 8 %, at most a quarter]
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    reserve: Option<u64>,
    /// Context to plan for, in tokens [default: the longest that fits]
    #[arg(short, long, value_name = "TOKENS", value_parser = values::tokens)]
    ctx: Option<u32>,
    /// Read bandwidth in GB/s [default: measured, when planning for this machine]
    #[arg(long, value_name = "GB/S", value_parser = positive)]
    bandwidth: Option<f64>,
    /// Matrix arithmetic in TFLOP/s, for prefill speed
    #[arg(long, value_name = "TFLOP/S", value_parser = positive)]
    tflops: Option<f64>,
    /// Explain the machine sizes that are known for these models
    #[arg(long, conflicts_with_all = ["model", "memory", "ctx", "cost"])]
    tiers: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    // The group comes last: what follows it would stand under its heading.
    #[command(flatten)]
    cost: cost::CostArgs,
}

/// What is planned: a configuration and what its weights need.
struct Subject {
    name: String,
    config: Config,
    needs: Needs,
    work: Work,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        if self.tiers {
            return tiers::print(&mut *context.out, self.json);
        }
        let subject = self.subject()?;
        let machine = self.memory.is_none().then(Machine::detect);
        let plan = self.memory_plan(&subject, machine.as_ref());
        let rates = self.rates(machine.is_some());
        let speeds = speeds(&subject, &plan, rates);
        let cost = self.cost.compare(&subject, rates)?;
        if self.json {
            let report = json!({
                "model": subject.name, "memory": plan, "fits": plan.fits(), "rates": rates,
                "work": subject.work, "speed": speeds, "cost": cost, "machine": machine,
            });
            writeln!(context.out, "{}", serde_json::to_string_pretty(&report)?)?;
            return Ok(());
        }
        let out = &mut *context.out;
        writeln!(out, "{HEADING}{}{HEADING:#}", subject.name)?;
        print_memory(out, &plan)?;
        print_verdict(out, &plan)?;
        if let Some(machine) = &machine {
            print_gpus(out, &subject, machine)?;
        }
        print_speeds(out, &subject, rates, &speeds)?;
        if let Some(cost) = cost {
            cost.print(out)?;
        }
        Ok(())
    }

    fn subject(&self) -> anyhow::Result<Subject> {
        if let Some(path) = &self.model {
            let gguf = Gguf::open(path)?;
            let found = inspect(&gguf)?;
            let config = Config::from_gguf(&gguf)?;
            let needs = open::needs(&config, found.needs.weights, self.ctx)?;
            return Ok(Subject { name: found.name, config, needs, work: found.work });
        }
        let (preset, recipe) = (Preset::from(self.preset), self.quant.into());
        let config = preset.config();
        let list = tensors(&config, recipe);
        let weights = list.iter().map(|tensor| tensor.bytes()).sum();
        Ok(Subject {
            name: format!("{}, {}", config.name, recipe.name()),
            needs: open::needs(&config, weights, self.ctx)?,
            work: Work::of(&config, &list),
            config,
        })
    }

    fn memory_plan(&self, subject: &Subject, machine: Option<&Machine>) -> MemoryPlan {
        let mut budget = match (self.memory, machine) {
            (Some(memory), _) => Budget::dedicated(memory),
            (None, Some(machine)) => Budget::of_machine(machine),
            (None, None) => Budget::dedicated(0),
        };
        if let Some(reserved) = self.reserve {
            budget.reserved = reserved;
        }
        MemoryPlan::new(subject.needs.clone(), budget, self.ctx.map(u64::from))
    }

    /// Bandwidth as given, or as measured where the plan is for this machine.
    fn rates(&self, here: bool) -> Option<Rates> {
        let measured = || {
            let n_threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            Probe::quick(n_threads).measure()
        };
        let bandwidth = self.bandwidth.or_else(|| here.then(measured))?;
        Some(Rates { bandwidth, tflops: self.tflops })
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(format!("`{text}` is not a number above zero")),
    }
}

/// Speeds at contexts that fit, from short to the longest.
fn speeds(subject: &Subject, plan: &MemoryPlan, rates: Option<Rates>) -> Vec<Speed> {
    let Some(rates) = rates else { return Vec::new() };
    let steps = [2048, 8192, 32_768, 131_072, 524_288];
    let longest = plan.context_ceiling.max(plan.context.min(subject.needs.context_max));
    let contexts = steps.into_iter().filter(|step| *step < longest).chain([longest]);
    contexts.map(|context| subject.work.speed(&subject.config, rates, context)).collect()
}

/// The memory plan as a table; `keid inspect` and `keid run` print it too.
pub(crate) fn print_memory(out: &mut dyn Write, plan: &MemoryPlan) -> anyhow::Result<()> {
    let needs = &plan.needs;
    let mut table = Table::new(["", "", ""]).text_from(2);
    let mut row = |name: String, bytes: u64, note: String| {
        table.row([name, print::bytes(bytes), note]);
    };
    row("weights".to_owned(), needs.weights, String::new());
    let rows = format!("{} B a token", print::count(needs.kv_per_token.round() as u64));
    let context = print::count(plan.context);
    row(format!("KV of {context} tokens"), plan.kv - needs.kv_fixed, rows);
    row("windows and open state".to_owned(), needs.kv_fixed, String::new());
    row("scratch".to_owned(), needs.scratch, String::new());
    row("left to the system".to_owned(), plan.budget.reserved, String::new());
    let used = plan.total + plan.budget.reserved;
    match plan.budget.memory.checked_sub(used) {
        Some(free) => row("free".to_owned(), free, String::new()),
        None => row("missing".to_owned(), used - plan.budget.memory, String::new()),
    }
    row("memory".to_owned(), plan.budget.memory, String::new());
    Ok(table.print(out)?)
}

fn print_verdict(out: &mut dyn Write, plan: &MemoryPlan) -> anyhow::Result<()> {
    let ceiling = print::count(plan.context_ceiling);
    if plan.context_ceiling == 0 {
        writeln!(out, "  Does not fit: {} are missing.", print::bytes(plan.missing()))?;
    } else if !plan.fits() {
        let context = print::count(plan.context);
        writeln!(out, "  {context} tokens do not fit; {ceiling} would.")?;
    } else if plan.context_ceiling == plan.needs.context_max {
        writeln!(out, "  Longest context: {ceiling} tokens, all the model was made for.")?;
    } else {
        writeln!(out, "  Longest context: {ceiling} tokens.")?;
    }
    Ok(())
}

/// One line for each accelerator: whether the model fits in its memory alone.
fn print_gpus(out: &mut dyn Write, subject: &Subject, machine: &Machine) -> anyhow::Result<()> {
    for gpu in &machine.gpus {
        // Unified memory has been planned above.
        let Some(memory) = gpu.memory.filter(|_| machine.memory.gpu_wired_limit.is_none()) else {
            continue;
        };
        let plan = MemoryPlan::new(subject.needs.clone(), Budget::of_gpu(memory), None);
        let verdict = match plan.context_ceiling {
            0 => format!("{} are missing", print::bytes(plan.missing())),
            ceiling => format!("fits, with up to {} tokens", print::count(ceiling)),
        };
        writeln!(out, "  {} ({}): {verdict}.", gpu.name, print::bytes(memory))?;
    }
    Ok(())
}

fn print_speeds(
    out: &mut dyn Write,
    subject: &Subject,
    rates: Option<Rates>,
    speeds: &[Speed],
) -> anyhow::Result<()> {
    writeln!(out, "\n{HEADING}Expected speed{HEADING:#}")?;
    let gb = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
    writeln!(
        out,
        "  A token reads {} of weights ({} of routed experts) and takes {:.1} GFLOP.",
        gb(subject.work.bytes),
        gb(subject.work.expert_bytes),
        subject.work.flops as f64 / 1e9
    )?;
    let Some(rates) = rates else {
        writeln!(out, "  Tokens per second follow from the bandwidth: add --bandwidth GB/s.")?;
        return Ok(());
    };
    let mut table = Table::new(["context", "decode t/s", "at most", "prefill t/s"]);
    for speed in speeds {
        table.row([
            print::count(speed.context),
            print::rate(speed.decode),
            print::rate(speed.decode_roof),
            speed.prefill.map(print::rate).unwrap_or_default(),
        ]);
    }
    table.print(out)?;
    let share = tools::plan::speed::EXPECTED * 100.0;
    let bandwidth = print::rate(rates.bandwidth);
    let note = format!("Decode at {share:.0} % of {bandwidth} GB/s; at most: all of it.");
    writeln!(out, "  {FAINT}{note}{FAINT:#}")?;
    Ok(())
}
