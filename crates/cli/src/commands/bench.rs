//! `keid bench`: speed, and how near it is to what bytes and operations allow.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context as _;
use backend_cuda::Cuda;
use engine::Options;
use gguf::Gguf;
use model::Config;
use serde::Serialize;
use tools::bandwidth::Probe;
use tools::bench::{Bench, Measured};
use tools::roofline::{Ceilings, Roofline};
use tools::synth::{Request, Synth};

use super::shape::{PresetArg, QuantArg};
use crate::open::{BackendArg, ModelArgs};
use crate::print::Table;
use crate::term::progress;
use crate::{Context, UsageError, print, values};

/// Flags of `keid bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keid bench -m model.gguf
  keid bench -m model.gguf --vs-roofline                beside what this machine allows
  keid bench -m model.gguf --depth 0,2K,8K              at several contexts
  keid bench -m model.gguf --fill-kv 32K,128K           at contexts that are made up, not read
  keid bench -m model.gguf --threads 1,2                with one thread and with two
  keid bench --synth flash --quant q2 --layers 4        full widths with no file")]
pub(crate) struct Args {
    /// The GGUF file [default: the model inside this binary, if there is one]
    #[arg(short, long, value_name = "FILE", conflicts_with = "synth")]
    model: Option<PathBuf>,
    /// Make the weights of a shape in the backend's memory, with no file
    #[arg(long, value_enum, value_name = "PRESET")]
    synth: Option<PresetArg>,
    /// The mixture of storage types of --synth
    #[arg(long, value_enum, default_value = "q2", requires = "synth")]
    quant: QuantArg,
    /// Keep only the first N layers of --synth
    #[arg(long, value_name = "N", requires = "synth")]
    layers: Option<usize>,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendArg,
    /// Threads, one or several counts [default: one for each core]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',')]
    threads: Vec<NonZeroUsize>,
    /// Tokens of the prompt whose reading is timed at each context; 0 times none
    #[arg(long, value_name = "N", default_value = "512", value_parser = values::tokens)]
    prompt: u32,
    /// Tokens generated at each context
    #[arg(long, value_name = "N", default_value = "32")]
    generate: NonZeroUsize,
    /// Contexts, in tokens that are read first [default: 0]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = depth)]
    depth: Vec<usize>,
    /// Contexts whose KV is made up instead of read, so that long ones take no time
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = depth)]
    fill_kv: Vec<usize>,
    /// Tokens of a prompt that are read at once
    #[arg(long, value_name = "N", default_value = "512")]
    chunk: NonZeroUsize,
    /// Measure this machine in the same run, and show how much of what it allows is reached
    #[arg(long)]
    vs_roofline: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
}

/// A count of tokens; 0 too.
fn depth(text: &str) -> Result<usize, String> {
    if text.trim() == "0" { Ok(0) } else { values::tokens(text).map(|n| n as usize) }
}

/// Everything measured, as printed by `--json`.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    backend: &'static str,
    /// Bytes of weights, and operations, of one token.
    weight_bytes_per_token: u64,
    flops_per_token: u64,
    decode: Vec<Entry>,
    prefill: Vec<Entry>,
}

/// One speed.
#[derive(Clone, Debug, Serialize)]
struct Entry {
    /// `None` where the backend chose.
    threads: Option<usize>,
    /// Tokens held before.
    context: usize,
    /// Tokens read or generated.
    tokens: usize,
    tokens_per_second: f64,
    /// Of what memory (decode), or memory and arithmetic (prefill) allow.
    percent_of_roofline: Option<f64>,
    bytes_per_token: u64,
    flops_per_token: u64,
    /// Slowest step over the median one; decode alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    slowest: Option<f64>,
    /// GB/s of plain reads, and GFLOP/s from the caches, in this run.
    memory_gb_per_s: Option<f64>,
    arithmetic_gflop_per_s: Option<f64>,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let gguf = self.file()?;
        let config = Config::from_gguf(&gguf)?;
        let roofline = Roofline::new(&gguf, &config);
        let counts: Vec<Option<NonZeroUsize>> = if self.threads.is_empty() {
            vec![None]
        } else {
            self.threads.iter().copied().map(Some).collect()
        };
        let mut report = Report {
            model: config.name.clone(),
            backend: "",
            weight_bytes_per_token: roofline.work.bytes,
            flops_per_token: roofline.work.flops,
            decode: Vec::new(),
            prefill: Vec::new(),
        };
        for threads in counts {
            self.measure(&gguf, &config, &roofline, threads, &mut report, context)?;
        }
        if self.json {
            let text = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
            Ok(writeln!(context.out, "{text}")?)
        } else if self.csv {
            print_csv(context, &report)
        } else {
            print_table(context, &report)
        }
    }

    /// The file, or one that exists nowhere.
    fn file(&self) -> anyhow::Result<Gguf> {
        let Some(preset) = self.synth else { return self.model_args(None).file() };
        let request = Request {
            preset: preset.into(),
            recipe: self.quant.into(),
            n_layers: self.layers,
            seed: 0,
        };
        let synth = Synth::new(request).map_err(|error| UsageError(error.to_string()))?;
        Ok(synth.into_gguf()?)
    }

    fn model_args(&self, threads: Option<NonZeroUsize>) -> ModelArgs {
        ModelArgs {
            model: self.model.clone(),
            backend: self.backend,
            threads,
            ctx: None,
            chunk: Some(self.chunk),
            prompt_format: None,
        }
    }

    fn measure(
        &self,
        gguf: &Gguf,
        config: &Config,
        roofline: &Roofline,
        threads: Option<NonZeroUsize>,
        report: &mut Report,
        context: &Context,
    ) -> anyhow::Result<()> {
        let benches = self.benches();
        let longest = benches.iter().map(Bench::positions).max().unwrap_or(1);
        let options = Options { anchor_bytes: 0, ..Options::single(longest, self.chunk.get()) };
        let (mut engine, _) = self.model_args(threads).engine(gguf, config, options)?;
        report.backend = engine.info().backend;
        let ceilings = match (self.vs_roofline, report.backend) {
            (false, _) => None,
            (true, "cuda") => Some(ceilings_of_the_gpu()?),
            (true, _) => Some(ceilings(roofline, threads)),
        };
        let bar = progress::tokens_bar(context.quiet);
        bar.set_length(benches.iter().map(Bench::steps).sum::<usize>() as u64);
        for bench in benches {
            let measured = bench.run(&mut *engine, &mut |n| bar.inc(n as u64))?;
            self.enter(report, &measured, roofline, ceilings, threads);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn enter(
        &self,
        report: &mut Report,
        m: &Measured,
        roofline: &Roofline,
        ceilings: Option<Ceilings>,
        threads: Option<NonZeroUsize>,
    ) {
        let entry = |context: usize, tokens: usize, speed: f64, roof: Option<f64>| Entry {
            threads: threads.map(NonZeroUsize::get),
            context,
            tokens,
            tokens_per_second: speed,
            percent_of_roofline: roof.map(|roof| 100.0 * speed / roof),
            bytes_per_token: roofline.decode_bytes(context),
            flops_per_token: roofline.flops(context),
            slowest: None,
            memory_gb_per_s: ceilings.map(|c| c.bandwidth),
            arithmetic_gflop_per_s: ceilings.and_then(|c| c.arithmetic),
        };
        let roof = ceilings.map(|c| roofline.decode(c, m.context));
        let decode = entry(m.context, self.generate.get(), m.decode, roof);
        report.decode.push(Entry { slowest: Some(m.jitter), ..decode });
        if let Some(speed) = m.prefill {
            let (at, n, chunk) = (m.prefill_context, self.prompt as usize, self.chunk.get());
            let roof = ceilings.map(|c| roofline.prefill(c, at, n, chunk));
            report.prefill.push(entry(at, n, speed, roof));
        }
    }

    fn benches(&self) -> Vec<Bench> {
        let bench = |filled: bool| {
            let (prompt, generate) = (self.prompt as usize, self.generate.get());
            move |&context: &usize| Bench { prompt, generate, context, filled }
        };
        let mut benches: Vec<Bench> = self.depth.iter().map(bench(false)).collect();
        benches.extend(self.fill_kv.iter().map(bench(true)));
        if benches.is_empty() {
            benches.push(bench(false)(&0));
        }
        benches
    }
}

/// This machine's rates with so many threads.
fn ceilings(roofline: &Roofline, threads: Option<NonZeroUsize>) -> Ceilings {
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = threads.unwrap_or(all);
    let bandwidth = Probe::standard(threads).measure();
    Ceilings { bandwidth, arithmetic: Some(roofline.arithmetic(threads)) }
}

/// The first CUDA device's memory; its arithmetic is not what bounds generation.
fn ceilings_of_the_gpu() -> anyhow::Result<Ceilings> {
    let cuda = Cuda::open(0).context("no GPU can be measured")?;
    Ok(Ceilings { bandwidth: cuda.read_bandwidth()?, arithmetic: None })
}

fn percent(entry: &Entry) -> String {
    entry.percent_of_roofline.map_or(String::new(), |p| format!("{p:.0} %"))
}

fn print_table(context: &mut Context, report: &Report) -> anyhow::Result<()> {
    let titles = ["", "threads", "context", "tokens", "t/s", "GB/s", "GFLOP/s", "of roofline", ""];
    let mut table = Table::new(titles);
    let rows = report.prefill.iter().map(|entry| ("prefill", entry));
    for (what, entry) in rows.chain(report.decode.iter().map(|entry| ("decode", entry))) {
        let speed = entry.tokens_per_second;
        // A prompt's weights are read once a chunk: bytes a token say nothing there.
        let decode = what == "decode";
        table.row([
            what.to_owned(),
            entry.threads.map_or("all".to_owned(), |n| n.to_string()),
            print::count(entry.context as u64),
            entry.tokens.to_string(),
            print::rate(speed),
            if decode {
                format!("{:.1}", entry.bytes_per_token as f64 * speed / 1e9)
            } else {
                String::new()
            },
            format!("{:.0}", entry.flops_per_token as f64 * speed / 1e9),
            percent(entry),
            entry.slowest.map_or(String::new(), |s| format!("slowest step {s:.1}×")),
        ]);
    }
    table.print(&mut context.out)?;
    if let Some(Entry { memory_gb_per_s: Some(bandwidth), arithmetic_gflop_per_s, .. }) =
        report.decode.first()
    {
        let arithmetic = arithmetic_gflop_per_s
            .map_or(String::new(), |rate| format!(", products from the caches {rate:.0} GFLOP/s"));
        writeln!(
            context.out,
            "\nA token reads {} of weights and takes {:.2} GFLOP. In this run, plain reads of memory \
             reach {bandwidth:.1} GB/s{arithmetic}.",
            print::bytes(report.weight_bytes_per_token),
            report.flops_per_token as f64 / 1e9,
        )?;
    }
    Ok(())
}

fn print_csv(context: &mut Context, report: &Report) -> anyhow::Result<()> {
    writeln!(
        context.out,
        "what,threads,context,tokens,tokens_per_second,percent_of_roofline,bytes_per_token,\
         flops_per_token"
    )?;
    let rows = report.prefill.iter().map(|entry| ("prefill", entry));
    for (what, e) in rows.chain(report.decode.iter().map(|entry| ("decode", entry))) {
        let threads = e.threads.map_or(String::new(), |n| n.to_string());
        let percent = e.percent_of_roofline.map_or(String::new(), |p| format!("{p:.2}"));
        writeln!(
            context.out,
            "{what},{threads},{},{},{:.4},{percent},{},{}",
            e.context, e.tokens, e.tokens_per_second, e.bytes_per_token, e.flops_per_token
        )?;
    }
    Ok(())
}
