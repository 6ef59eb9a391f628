//! `keid bench`: speed, and how near it is to what the memory allows.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context as _;
use engine::Options;
use model::Config;
use serde_json::json;
use tools::bandwidth::Probe;
use tools::bench::{Bench, Measured, weight_bytes_per_token};
use tools::plan::kv;

use crate::Context;
use crate::open::{BackendArg, ModelArgs};
use crate::print::Table;

/// Flags of `keid bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keid bench -m model.gguf
  keid bench -m model.gguf --vs-roofline                beside the memory's speed
  keid bench -m model.gguf --threads 1,2 --depth 0,8192")]
pub(crate) struct Args {
    /// The GGUF file [default: the model inside this binary, if there is one]
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendArg,
    /// Threads, one or several counts [default: one for each core]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',')]
    threads: Vec<NonZeroUsize>,
    /// Tokens of the prompt whose reading is timed
    #[arg(long, value_name = "N", default_value = "512")]
    prompt: usize,
    /// Tokens generated at each depth
    #[arg(long, value_name = "N", default_value = "32")]
    generate: NonZeroUsize,
    /// Tokens held before generation is timed, one or several counts
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Tokens of a prompt that are read at once
    #[arg(long, value_name = "N", default_value = "512")]
    chunk: NonZeroUsize,
    /// Measure this machine's memory too, and show how much of it generation uses
    #[arg(long)]
    vs_roofline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One line of the report.
struct Line {
    threads: Option<usize>,
    measured: Measured,
    /// Weights and KV read a token.
    bytes: u64,
    /// GB/s of a plain read with as many threads.
    bandwidth: Option<f64>,
}

impl Line {
    fn gigabytes(&self) -> f64 {
        self.bytes as f64 * self.measured.decode / 1e9
    }

    fn share(&self) -> Option<f64> {
        self.bandwidth.map(|b| self.gigabytes() / b)
    }
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let counts: Vec<Option<NonZeroUsize>> = if self.threads.is_empty() {
            vec![None]
        } else {
            self.threads.iter().copied().map(Some).collect()
        };
        let mut lines = Vec::new();
        for threads in counts {
            self.measure(threads, &mut lines)?;
        }
        if self.json { print_json(context, &lines) } else { print_table(context, &lines) }
    }

    fn measure(&self, threads: Option<NonZeroUsize>, lines: &mut Vec<Line>) -> anyhow::Result<()> {
        let model = ModelArgs {
            model: self.model.clone(),
            backend: self.backend,
            threads,
            ctx: None,
            chunk: self.chunk,
            prompt_format: None,
        };
        let gguf = model.file()?;
        let config = Config::from_gguf(&gguf)?;
        let benches: Vec<Bench> = self.benches();
        let longest = benches.iter().map(Bench::context).max().unwrap_or(1);
        let options = Options { anchor_bytes: 0, ..Options::single(longest, self.chunk.get()) };
        let bandwidth = self.vs_roofline.then(|| {
            let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            Probe::standard(threads.unwrap_or(all)).measure()
        });
        let (mut engine, _) = model.engine(&gguf, &config, options)?;
        let weights = weight_bytes_per_token(&gguf, &config);
        for bench in benches {
            let measured = bench.run(&mut *engine)?;
            let kv = kv::read_per_token(&config, kv::RowFormat::Model, bench.depth as u64);
            let bytes = weights + kv;
            let threads = threads.map(NonZeroUsize::get);
            lines.push(Line { threads, measured, bytes, bandwidth });
        }
        Ok(())
    }

    /// The prompt is timed once, with the first depth.
    fn benches(&self) -> Vec<Bench> {
        let bench = |(i, &depth): (usize, &usize)| Bench {
            prompt: if i == 0 { self.prompt } else { 0 },
            generate: self.generate.get(),
            depth,
        };
        self.depth.iter().enumerate().map(bench).collect()
    }
}

fn print_table(context: &mut Context, lines: &[Line]) -> anyhow::Result<()> {
    let titles = ["threads", "depth", "prefill t/s", "decode t/s", "GB/s", "of memory", "slowest"];
    let mut table = Table::new(titles);
    for line in lines {
        let m = &line.measured;
        table.row([
            line.threads.map_or("all".to_owned(), |n| n.to_string()),
            m.depth.to_string(),
            if m.prefill > 0.0 { format!("{:.1}", m.prefill) } else { String::new() },
            format!("{:.2}", m.decode),
            format!("{:.2}", line.gigabytes()),
            line.share().map_or(String::new(), |s| format!("{:.0} %", 100.0 * s)),
            format!("{:.1}×", m.jitter),
        ]);
    }
    table.print(&mut context.out)?;
    if let Some(bandwidth) = lines.first().and_then(|l| l.bandwidth) {
        writeln!(context.out, "\nA plain read of memory reaches {bandwidth:.1} GB/s.")?;
    }
    Ok(())
}

fn print_json(context: &mut Context, lines: &[Line]) -> anyhow::Result<()> {
    let value = |line: &Line| {
        json!({
            "threads": line.threads,
            "measured": line.measured,
            "bytes_per_token": line.bytes,
            "memory_gb_per_s": line.bandwidth,
            "share_of_memory": line.share(),
        })
    };
    let report: Vec<_> = lines.iter().map(value).collect();
    let text = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
    Ok(writeln!(context.out, "{text}")?)
}
