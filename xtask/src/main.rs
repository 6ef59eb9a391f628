//! Developer commands: `cargo xtask COMMAND`. One file a command.

mod generate;
mod op;

use std::process::ExitCode;

use clap::Parser;

/// What developers do besides building and testing.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
enum Command {
    /// Write the manual pages and the completion scripts of `keid`
    Generate(generate::Args),
    /// Run the case list of an operation on the CPU backend
    Op(op::Args),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Generate(args) => args.run(),
        Command::Op(args) => args.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
