//! One file a command: its flags, its help, and the call into the libraries.
//!
//! To add one: a file with an `Args` that derives `clap::Args` and has
//! `run(&self, &mut Context)`, its module, and a variant of [`Command`]. Tests check that
//! every command and flag explains itself and that every command shows an example.

mod completions;
mod doctor;
mod inspect;
mod man;
mod plan;
mod shape;
mod synth;

use clap::Subcommand;

pub use man::page as manual_page;

use crate::Context;

/// What `keid` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a file holds and whether this machine can run it
    Inspect(inspect::Args),
    /// Plan memory, context, speed and cost; needs no weights
    Plan(plan::Args),
    /// Look at this machine: what can run, what is wrong, how to mend it
    Doctor(doctor::Args),
    /// Write a synthetic model of a given shape
    Synth(synth::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        match self {
            Self::Inspect(args) => args.run(context),
            Self::Plan(args) => args.run(context),
            Self::Doctor(args) => args.run(context),
            Self::Synth(args) => args.run(context),
            Self::Completions(args) => args.run(context),
            Self::Man(args) => args.run(context),
        }
    }
}
