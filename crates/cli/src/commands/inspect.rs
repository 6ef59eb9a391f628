//! `keid inspect`: what a file holds, and whether this machine can run it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use chat::{FormatHints, PromptFormat};
use gguf::Gguf;
use model::Config;
use serde_json::json;
use tools::inspect::{Inspection, Shape, inspect};
use tools::machine::Machine;
use tools::plan::{Budget, MemoryPlan};

use crate::Context;
use crate::print::{self, FAINT, HEADING, Table};

/// Flags of `keid inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keid inspect model.gguf
  keid inspect model-00001-of-00003.gguf    a split file, by its first shard
  keid inspect --json model.gguf | jq .needs.weights")]
pub(crate) struct Args {
    /// The GGUF file
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let gguf = Gguf::open(&self.file)?;
        let mut found = inspect(&gguf)?;
        found.needs = crate::open::needs(&Config::from_gguf(&gguf)?, found.needs.weights, None)?;
        let machine = Machine::detect();
        let plan = MemoryPlan::new(found.needs.clone(), Budget::of_machine(&machine), None);
        let format = prompt_format(&gguf)?;
        if self.json {
            let report = json!({
                "file": found, "prompt_format": format, "plan": plan,
                "runs_here": runs(&found, &plan),
            });
            let text = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
            writeln!(context.out, "{text}")?;
            return Ok(());
        }
        let out = &mut *context.out;
        print_file(out, &found, &format)?;
        print_shape(out, &found.shape)?;
        print_types(out, &found)?;
        print_plan(out, &found, &plan)?;
        Ok(())
    }
}

fn runs(found: &Inspection, plan: &MemoryPlan) -> bool {
    found.defect.is_none() && plan.context_ceiling > 0
}

/// The version of the prompt format, and what tells it.
fn prompt_format(gguf: &Gguf) -> anyhow::Result<String> {
    let hints = FormatHints::from_metadata(gguf.metadata())?;
    Ok(match PromptFormat::detect(&hints) {
        Ok(found) => format!("{}, {}", found.format, found.evidence),
        Err(error) => error.to_string(),
    })
}

fn print_file(out: &mut dyn Write, found: &Inspection, format: &str) -> anyhow::Result<()> {
    writeln!(out, "{HEADING}{}{HEADING:#}", found.name)?;
    let shards = match found.n_shards {
        1 => String::new(),
        n => format!(" in {n} files"),
    };
    writeln!(
        out,
        "  deepseek4, {} weights, {}{shards}, {:.2} bits a weight",
        print::large(found.n_weights),
        print::bytes(found.file_bytes),
        found.bits_per_weight()
    )?;
    writeln!(out, "  prompt format {format}")?;
    Ok(())
}

fn print_shape(out: &mut dyn Write, shape: &Shape) -> anyhow::Result<()> {
    let [window_only, csa, hca] = shape.layer_kinds;
    let [n_experts, n_used] = shape.n_experts;
    writeln!(out, "\n{HEADING}Shape{HEADING:#}")?;
    let mut table = Table::new(["", ""]).text_from(1);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let layers = format!("{} ({window_only} window only, {csa} CSA, {hca} HCA)", shape.n_layers);
    row("layers", layers);
    row("streams", format!("{} of {}", shape.n_streams, shape.hidden));
    row("heads", format!("{} of {}, one KV head", shape.n_heads, shape.head_dim));
    row("experts", format!("{n_used} of {n_experts} and one shared, {} wide", shape.expert_inner));
    row("hash-routed layers", shape.n_hash_layers.to_string());
    row("window", format!("{}, indexer picks {}", shape.window, shape.index_top_k));
    row("vocabulary", print::count(shape.n_vocab as u64));
    row("longest context", format!("{} tokens", print::count(shape.context_max as u64)));
    if shape.n_mtp > 0 {
        row("MTP blocks", shape.n_mtp.to_string());
    }
    Ok(table.print(out)?)
}

fn print_types(out: &mut dyn Write, found: &Inspection) -> anyhow::Result<()> {
    writeln!(out, "\n{HEADING}Tensors{HEADING:#}")?;
    let mut table = Table::new(["for", "tensors", "size", "read a token", "types"]).text_from(4);
    for class in &found.classes {
        table.row([
            class.class.clone(),
            class.n_tensors.to_string(),
            print::bytes(class.bytes),
            print::bytes(class.bytes_per_token),
            class.types.join(" "),
        ]);
    }
    table.print(out)?;
    for name in &found.unknown {
        writeln!(out, "  {FAINT}not of this architecture: {name}{FAINT:#}")?;
    }
    let types = found.types.iter().map(|ty| format!("{} {}", ty.ty, print::bytes(ty.bytes)));
    writeln!(out, "  types: {}", types.collect::<Vec<_>>().join(", "))?;
    Ok(())
}

fn print_plan(out: &mut dyn Write, found: &Inspection, plan: &MemoryPlan) -> anyhow::Result<()> {
    writeln!(out, "\n{HEADING}On this machine{HEADING:#}")?;
    super::plan::print_memory(out, plan)?;
    if let Some(defect) = &found.defect {
        writeln!(out, "  This file does not run: {defect}.")?;
    } else if plan.context_ceiling == 0 {
        writeln!(out, "  This file does not fit: {} are missing.", print::bytes(plan.missing()))?;
    } else {
        let ceiling = print::count(plan.context_ceiling);
        writeln!(out, "  This machine runs it with up to {ceiling} tokens of context.")?;
    }
    Ok(())
}
