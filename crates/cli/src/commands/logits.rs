//! `keid logits`: token ids in, logits out; the machine-readable door for correctness.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use engine::{Engine, Feed, Options, RowFormat, Wanted, argmax};
use model::Config;

use crate::open::{BackendArg, ModelArgs};
use crate::{Context, UsageError};

/// Flags of `keid logits`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
OUT holds little-endian f32 values, [K, vocabulary], for the last K tokens.

Examples:
  keid logits -m model.gguf --tokens-file ids.txt -o logits.bin
  keid logits -m model.gguf --tokens-file ids.txt --backend reference --numerics exact -o a.bin
  keid logits -m model.gguf --tokens-file ids.txt --step --last 4 --greedy 32 -o b.bin")]
pub(crate) struct Args {
    /// The GGUF file [default: the model inside this binary, if there is one]
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Token ids, separated by white space
    #[arg(long, value_name = "IDS")]
    tokens_file: PathBuf,
    /// Where the logits go
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendArg,
    /// Threads [default: one for each core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Tokens that are read at once
    #[arg(long, value_name = "N", default_value = "512", conflicts_with = "step")]
    chunk: NonZeroUsize,
    /// Read token by token
    #[arg(long)]
    step: bool,
    /// How many of the last tokens to write logits for
    #[arg(long, value_name = "K", default_value = "1")]
    last: NonZeroUsize,
    /// Arithmetic of what is kept of each token
    #[arg(long, value_enum, default_value = "model")]
    numerics: NumericsArg,
    /// How the rotated part of a KV row is kept with `model` numerics
    #[arg(long, value_enum, default_value = "f32")]
    rope_tail: RopeTail,
    /// Print this many greedily chosen tokens that follow, as a JSON array
    #[arg(long, value_name = "N")]
    greedy: Option<usize>,
}

/// Which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NumericsArg {
    /// With the FP8 and FP4 round trips that are part of the model
    Model,
    /// Without them
    Exact,
}

/// Precision of the rotated part of a KV row, which the model does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RopeTail {
    /// As computed
    F32,
    /// Rounded to 16 bits, as conversations keep it
    F16,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let model = ModelArgs {
            model: self.model.clone(),
            backend: self.backend,
            threads: self.threads,
            ctx: None,
            chunk: Some(self.chunk),
            prompt_format: None,
        };
        let tokens = read_tokens(&self.tokens_file)?;
        if self.last.get() > tokens.len() {
            let (last, n) = (self.last, tokens.len());
            bail!(UsageError(format!("--last {last}: the file holds {n} tokens")));
        }
        let gguf = model.file()?;
        let config = Config::from_gguf(&gguf)?;
        let options = self.options(&config, tokens.len());
        let (mut engine, _) = model.engine(&gguf, &config, options, context.quiet)?;
        let logits = self.read(&mut *engine, &tokens)?;
        write_logits(&self.out, &logits)?;
        if let Some(n) = self.greedy {
            let last = &logits[logits.len() - config.n_vocab..];
            let ids = continue_greedily(&mut *engine, last, n)?;
            writeln!(context.out, "{}", serde_json::to_string(&ids)?)?;
        }
        Ok(())
    }

    fn options(&self, config: &Config, n_tokens: usize) -> Options {
        let n_context = n_tokens + self.greedy.unwrap_or(0).saturating_sub(1);
        let chunk = if self.step { 1 } else { self.chunk.get().min(n_tokens) };
        Options {
            logit_rows: self.last.get().min(chunk),
            rows: match (self.numerics, self.rope_tail) {
                (NumericsArg::Exact, _) => RowFormat::F32,
                (NumericsArg::Model, RopeTail::F32) => RowFormat::ModelWideTail,
                (NumericsArg::Model, RopeTail::F16) => RowFormat::Model,
            },
            anchor_bytes: 0,
            ..Options::single(n_context.min(config.context_max), chunk)
        }
    }

    /// Feeds every token; logits of the last ones, row after row.
    fn read(&self, engine: &mut dyn Engine, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
        let info = engine.info();
        let first_wanted = tokens.len() - self.last.get();
        let mut logits = Vec::with_capacity(self.last.get() * info.n_vocab);
        let mut done = 0;
        for part in tokens.chunks(info.options.step_rows) {
            done += part.len();
            let n = done.saturating_sub(first_wanted).min(part.len());
            engine.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(n) }])?;
            for i in 0..n {
                logits.extend_from_slice(engine.logits(i));
            }
            engine.commit(&[part.len() as u32])?;
        }
        Ok(logits)
    }
}

fn read_tokens(path: &Path) -> anyhow::Result<Vec<u32>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let parse = |(i, word): (usize, &str)| {
        word.parse::<u32>().map_err(|_| {
            anyhow::anyhow!("{name}: entry {}: expected a token id, found `{word}`", i + 1)
        })
    };
    let tokens: Vec<u32> =
        text.split_whitespace().enumerate().map(parse).collect::<anyhow::Result<_>>()?;
    if tokens.is_empty() {
        bail!("{name}: expected token ids, found none");
    }
    Ok(tokens)
}

fn write_logits(path: &Path, logits: &[f32]) -> anyhow::Result<()> {
    let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn continue_greedily(engine: &mut dyn Engine, last: &[f32], n: usize) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::with_capacity(n);
    if n > 0 {
        ids.push(argmax(last));
    }
    while ids.len() < n {
        let token = [ids[ids.len() - 1]];
        engine.feed(&[Feed { slot: 0, tokens: &token, wanted: Wanted::Last(1) }])?;
        ids.push(argmax(engine.logits(0)));
        engine.commit(&[1])?;
    }
    Ok(ids)
}
