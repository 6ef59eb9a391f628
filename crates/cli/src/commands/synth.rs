//! `keid synth`: writes a synthetic model.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tools::synth::{Progress, Request, Synth};

use super::shape::{PresetArg, QuantArg};
use crate::term::progress::bytes_bar;
use crate::{Context, print};

/// Flags of `keid synth`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The weights are random, of the right size, and the same for a seed whatever the number of \
threads. Generated text is noise; speed and memory are those of a real model of the shape.

Examples:
  keid synth --preset tiny -o tiny.gguf                  a model to try things with
  keid synth --preset mid --quant q2 -o mid.gguf         3.1 GB, for benchmarks
  keid synth --preset flash --layers 8 -o flash8.gguf    full widths, a fifth of the layers")]
pub(crate) struct Args {
    /// The shape
    #[arg(long, value_enum)]
    preset: PresetArg,
    /// The mixture of storage types
    #[arg(long, value_enum, default_value = "q2")]
    quant: QuantArg,
    /// Keep only the first N layers
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads that make and write weights [default: all]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let synth = Synth::new(Request {
            preset: self.preset.into(),
            recipe: self.quant.into(),
            n_layers: self.layers,
            seed: self.seed,
        })
        .map_err(|error| crate::UsageError(error.to_string()))?;
        let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let n_threads = self.threads.unwrap_or(available);
        let n_bytes = synth.file_bytes()?;

        let start = Instant::now();
        self.write(&synth, n_threads, context)?;
        let seconds = start.elapsed().as_secs_f64();
        writeln!(
            context.out,
            "{}: {} in {} tensors, {:.1} s, {} MB/s",
            self.output.display(),
            print::bytes(n_bytes),
            print::count(synth.tensors().len() as u64),
            seconds,
            print::rate(n_bytes as f64 / seconds / 1e6)
        )?;
        Ok(())
    }

    /// Writes on worker threads and shows how far they are on this one.
    fn write(
        &self,
        synth: &Synth,
        n_threads: NonZeroUsize,
        context: &Context,
    ) -> anyhow::Result<()> {
        let total = synth.tensors().iter().map(|tensor| tensor.bytes()).sum();
        let bar = bytes_bar("writing", context.quiet);
        bar.set_length(total);
        let progress = Progress::default();
        let interrupt = context.interrupt.arm();
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| synth.write(&self.output, n_threads, &progress));
            while !writer.is_finished() {
                bar.set_position(progress.written.load(Ordering::Relaxed));
                if interrupt.requested() {
                    progress.stop.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            match writer.join() {
                Ok(written) => written,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        bar.finish_and_clear();
        Ok(written?)
    }
}
