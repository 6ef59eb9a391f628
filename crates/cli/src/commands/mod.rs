//! One file a command: its flags, its help, and the call into the libraries.
//!
//! To add one: a file with an `Args` that derives `clap::Args` and has
//! `run(&self, &mut Context)`, its module, and a variant of [`Command`]. Tests check that
//! every command and flag explains itself and that every command shows an example.

mod bench;
mod completions;
mod doctor;
mod inspect;
mod logits;
mod man;
mod plan;
mod render;
mod run;
mod serve;
mod shape;
mod synth;
mod tokenize;

use clap::Subcommand;

pub use man::page as manual_page;

use crate::Context;

/// What `keid` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a question, or talk
    Run(run::Args),
    /// Answer over HTTP, in the protocols of OpenAI and Anthropic
    Serve(serve::Args),
    /// Show what a file holds and whether this machine can run it
    Inspect(inspect::Args),
    /// Plan memory, context, speed and cost; needs no weights
    Plan(plan::Args),
    /// Look at this machine: what can run, what is wrong, how to mend it
    Doctor(doctor::Args),
    /// Measure speed, beside what the memory allows
    Bench(bench::Args),
    /// Write a synthetic model of a given shape
    Synth(synth::Args),
    /// Read token ids, write logits
    Logits(logits::Args),
    /// Print the token ids of a text
    Tokenize(tokenize::Args),
    /// Print the prompt that a request becomes
    Render(render::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        match self {
            Self::Run(args) => args.run(context),
            Self::Serve(args) => args.run(context),
            Self::Inspect(args) => args.run(context),
            Self::Plan(args) => args.run(context),
            Self::Doctor(args) => args.run(context),
            Self::Bench(args) => args.run(context),
            Self::Synth(args) => args.run(context),
            Self::Logits(args) => args.run(context),
            Self::Tokenize(args) => args.run(context),
            Self::Render(args) => args.run(context),
            Self::Completions(args) => args.run(context),
            Self::Man(args) => args.run(context),
        }
    }
}
