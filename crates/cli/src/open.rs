//! From flags to a loaded model: which file, which backend, how much context, and whether it
//! fits. The one place that names backends.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use backend::Ops;
use backend::reference::Reference;
use backend_cpu::{Cpu, PoolOptions};
use backend_cuda::Cuda;
use chat::{FormatHints, PromptFormat};
use clap::ValueEnum;
use engine::{Core, Engine, MemoryPlan, Options, weight_bytes};
use gguf::Gguf;
use model::Config;
use tokenizer::Tokenizer;
use tools::machine::Machine;
use tools::plan::{Budget, Needs};

use crate::term::progress;
use crate::{print, values};

/// Flags of every command that runs a model.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// The GGUF file [default: the model inside this binary, if there is one]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) backend: BackendArg,
    /// Threads [default: one for each core]
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Context in tokens, such as 64K [default: 32K, or less if the model or machine has less]
    #[arg(short, long, value_name = "TOKENS", value_parser = values::tokens)]
    pub(crate) ctx: Option<u32>,
    /// Tokens of a prompt that are read at once [default: 512; on a GPU up to 8192, as memory allows]
    #[arg(long, value_name = "N")]
    pub(crate) chunk: Option<NonZeroUsize>,
    /// The prompt format [default: what the file says]
    #[arg(long, value_name = "FORMAT", value_parser = prompt_format)]
    pub(crate) prompt_format: Option<PromptFormat>,
}

/// A backend by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// The fastest that this machine has
    Auto,
    /// Threads and vector instructions
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// One thread, slow and simple, for checking the others
    Reference,
}

/// A model that answers.
pub(crate) struct Loaded {
    /// The model's constants.
    pub(crate) config: Config,
    /// Its vocabulary.
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Its prompt format, and whether that is a guess.
    pub(crate) format: (PromptFormat, bool),
    /// The engine, holding one sequence.
    pub(crate) engine: Box<dyn Engine>,
    /// What it takes.
    pub(crate) plan: MemoryPlan,
}

/// Tokens of a prompt that are read at once unless it is said, and where a GPU's memory decides: larger
/// chunks let its experts' weights meet more tokens.
const CHUNK: usize = 512;
const GPU_CHUNKS: [usize; 4] = [8192, 4096, 2048, 1024];
/// The context that a conversation gets unless it asks for another.
const CONTEXT: u32 = 32_768;

fn prompt_format(text: &str) -> Result<PromptFormat, String> {
    text.parse().map_err(|error: chat::FormatError| error.to_string())
}

/// What a process does before it touches weights.
pub(crate) fn prepare_process() {
    backend_cpu::spread_memory();
}

impl ModelArgs {
    /// Opens the file that was named, or the model inside this binary.
    pub(crate) fn file(&self) -> anyhow::Result<Gguf> {
        match &self.model {
            Some(path) => Ok(Gguf::open(path)?),
            None => embedded(),
        }
    }

    /// Opens everything, for one conversation. A bar shows how far it is, unless `quiet`.
    pub(crate) fn open(&self, quiet: bool) -> anyhow::Result<Loaded> {
        self.open_sized(quiet, |config| self.options(config))
    }

    /// Opens everything, with an engine of these sizes.
    pub(crate) fn open_sized(
        &self,
        quiet: bool,
        options: impl FnOnce(&Config) -> Options,
    ) -> anyhow::Result<Loaded> {
        let gguf = self.file()?;
        let config = Config::from_gguf(&gguf)?;
        let tokenizer = Tokenizer::from_metadata(gguf.metadata())
            .with_context(|| format!("{}: cannot use the tokenizer", gguf.path().display()))?;
        let format = match self.prompt_format {
            Some(format) => (format, false),
            None => {
                let found = PromptFormat::detect(&FormatHints::from_metadata(gguf.metadata())?)?;
                (found.format, found.is_guess())
            }
        };
        let options = options(&config);
        let (engine, plan) = self.engine(&gguf, &config, options, quiet)?;
        Ok(Loaded { config, tokenizer: Arc::new(tokenizer), format, engine, plan })
    }

    /// Sizes of an engine for one conversation.
    pub(crate) fn options(&self, config: &Config) -> Options {
        let default = CONTEXT.min(u32::try_from(config.context_max).unwrap_or(u32::MAX));
        let context = self.ctx.unwrap_or(default) as usize;
        Options::single(context, self.chunk.map_or(CHUNK, NonZeroUsize::get))
    }

    /// Loads the weights, if the plan says that they fit.
    pub(crate) fn engine(
        &self,
        gguf: &Gguf,
        config: &Config,
        options: Options,
        quiet: bool,
    ) -> anyhow::Result<(Box<dyn Engine>, MemoryPlan)> {
        let host = || MemoryBudget::of(&Machine::detect());
        match self.backend {
            BackendArg::Reference => load(Reference::new(), gguf, config, options, (host(), quiet)),
            BackendArg::Cpu => load(self.cpu()?, gguf, config, options, (host(), quiet)),
            BackendArg::Cuda => {
                let (cuda, budget) = gpu()?;
                let options = self.roomy(&cuda, gguf, config, options, &budget);
                load(cuda, gguf, config, options, (budget, quiet))
            }
            BackendArg::Auto => match self.fitting_gpu(gguf, config, &options) {
                Ok((cuda, budget)) => {
                    let options = self.roomy(&cuda, gguf, config, options, &budget);
                    load(cuda, gguf, config, options, (budget, quiet))
                }
                Err(why) => {
                    tracing::info!("computing on the processor: {why:#}");
                    load(self.cpu()?, gguf, config, options, (host(), quiet))
                }
            },
        }
    }

    fn cpu(&self) -> anyhow::Result<Cpu> {
        let threads = self.threads.map(NonZeroUsize::get);
        Cpu::new(PoolOptions { threads, pin: threads.is_none() })
            .context("cannot start the threads")
    }

    /// The same with the largest chunk that fits, if none was asked for.
    fn roomy(
        &self,
        cuda: &Cuda,
        gguf: &Gguf,
        config: &Config,
        options: Options,
        budget: &MemoryBudget,
    ) -> Options {
        if self.chunk.is_some() {
            return options;
        }
        let with = |rows: usize| Options {
            step_rows: rows.min(options.context).max(options.step_rows),
            ..options
        };
        let fits = |options: &Options| {
            refuse_what_does_not_fit(&plan(cuda, gguf, config, options), budget).is_ok()
        };
        GPU_CHUNKS.into_iter().map(with).find(fits).unwrap_or(options)
    }

    /// The GPU, if there is one and its memory holds the model.
    fn fitting_gpu(
        &self,
        gguf: &Gguf,
        config: &Config,
        options: &Options,
    ) -> anyhow::Result<(Cuda, MemoryBudget)> {
        let (cuda, budget) = gpu()?;
        options.check(config)?;
        refuse_what_does_not_fit(&plan(&cuda, gguf, config, options), &budget)?;
        Ok((cuda, budget))
    }
}

/// The first CUDA device, and what can be used of its memory.
fn gpu() -> anyhow::Result<(Cuda, MemoryBudget)> {
    let cuda = Cuda::open(0).context("no GPU can be used")?;
    let (free, total) = cuda.memory()?;
    // Allocations are rounded up, and the driver takes some for itself as it goes.
    let available = free.saturating_sub(total / 100);
    Ok((cuda, MemoryBudget { memory: total, available, anchors: false }))
}

/// What memory a model may take.
struct MemoryBudget {
    /// Bytes of memory; 0 if that is unknown.
    memory: u64,
    /// Bytes of it that may be taken.
    available: u64,
    /// Whether anchors, which lie in the host's memory, count.
    anchors: bool,
}

impl MemoryBudget {
    fn of(machine: &Machine) -> Self {
        let budget = Budget::of_machine(machine);
        let memory = if machine.memory.total == 0 { 0 } else { budget.memory };
        Self { memory, available: budget.available(), anchors: true }
    }
}

fn plan<B: Ops>(backend: &B, gguf: &Gguf, config: &Config, options: &Options) -> MemoryPlan {
    let weights = weight_bytes(backend, gguf, options.draft, config.n_layers());
    MemoryPlan::new(backend, config, options, weights)
}

fn load<B>(
    backend: B,
    gguf: &Gguf,
    config: &Config,
    options: Options,
    (budget, quiet): (MemoryBudget, bool),
) -> anyhow::Result<(Box<dyn Engine>, MemoryPlan)>
where
    B: Ops + Send + 'static,
    Core<B>: Engine,
{
    options.check(config)?;
    let plan = plan(&backend, gguf, config, &options);
    refuse_what_does_not_fit(&plan, &budget)?;
    let bar = progress::bytes_bar("loading", quiet);
    bar.set_length(gguf.tensors().iter().map(|tensor| tensor.n_bytes).sum());
    let mut loaded = |bytes: u64| bar.set_position(bytes);
    let core = Core::open_watched(backend, gguf, config.clone(), None, options, &mut loaded);
    bar.finish_and_clear();
    Ok((Box::new(core?), plan))
}

/// The needs of a model with these weights on the fastest backend of this binary: exact for
/// `context` tokens, by default all that the model was made for. Only threads are started.
pub(crate) fn needs(config: &Config, weights: u64, context: Option<u32>) -> anyhow::Result<Needs> {
    let context = context.map_or(config.context_max, |n| (n as usize).min(config.context_max));
    let options = Options::single(context, CHUNK);
    let cpu =
        Cpu::new(PoolOptions { threads: None, pin: false }).context("cannot start threads")?;
    let plan = MemoryPlan::new(&cpu, config, &options, weights);
    Ok(Needs::of_engine(config, &plan, context as u64))
}

/// A model that does not fit would freeze the machine: it is refused before anything is loaded.
fn refuse_what_does_not_fit(plan: &MemoryPlan, budget: &MemoryBudget) -> anyhow::Result<()> {
    let counts = |label: &str| budget.anchors || label != "anchors";
    let lines = || plan.lines.iter().filter(|line| line.bytes > 0 && counts(line.label));
    let needed: u64 = lines().map(|line| line.bytes).sum();
    // A machine whose memory cannot be read is trusted to hold what it is given.
    if budget.memory == 0 || needed <= budget.available {
        return Ok(());
    }
    let lines = lines().map(|line| format!("{} {}", line.label, print::bytes(line.bytes)));
    bail!(
        "this does not fit: {} are needed ({}), {} of {} can be used; a smaller --ctx or --chunk \
         may help, and `keid plan -m FILE` shows what fits",
        print::bytes(needed),
        lines.collect::<Vec<_>>().join(", "),
        print::bytes(budget.available),
        print::bytes(budget.memory),
    )
}

/// The model inside this binary.
#[cfg(embedded_model)]
pub(crate) fn embedded() -> anyhow::Result<Gguf> {
    static MODEL: &[u8] = include_bytes!(env!("KEID_EMBEDDED_MODEL"));
    Ok(Gguf::from_static(MODEL, "the embedded model")?)
}

/// The model inside this binary, which has none.
#[cfg(not(embedded_model))]
pub(crate) fn embedded() -> anyhow::Result<Gguf> {
    let what = "no model is named and this binary contains none: pass -m FILE, or make one to \
                try with `keid synth --preset tiny -o tiny.gguf`";
    bail!(crate::UsageError(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use engine::PlanLine;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let mut machine = Machine::default();
        let plan = MemoryPlan { lines: vec![PlanLine { label: "weights", bytes: 80 << 30 }] };
        assert!(refuse_what_does_not_fit(&plan, &MemoryBudget::of(&machine)).is_ok());
        machine.memory.total = 96 << 30;
        assert!(refuse_what_does_not_fit(&plan, &MemoryBudget::of(&machine)).is_ok());
        machine.memory.total = 64 << 30;
        let error =
            refuse_what_does_not_fit(&plan, &MemoryBudget::of(&machine)).unwrap_err().to_string();
        assert!(error.contains("80.0 GiB are needed (weights 80.0 GiB)"), "{error}");
        assert!(error.contains("of 64.0 GiB"), "{error}");
    }
}
