//! Developer commands: `cargo xtask COMMAND`. One file a command.

mod ask;
mod cross;
mod device;
mod draft;
mod e2e;
mod generate;
mod kernels;
mod load;
mod op;
mod tiny_eval;

use std::process::ExitCode;

use clap::Parser;

/// What developers do besides building and testing.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
enum Command {
    /// Build and test for 64-bit Arm under an emulator, type-check for macOS
    Cross(cross::Args),
    /// Check everything that a GPU computes; under `compute-sanitizer` too
    Device(device::Args),
    /// Measure what drafting with the MTP block gives
    Draft(draft::Args),
    /// Run real clients and agents against the server
    E2e(e2e::Args),
    /// Write the manual pages and the completion scripts of `keid`
    Generate(generate::Args),
    /// Compile the CUDA kernels for every architecture, to be embedded by the next build
    Kernels(kernels::Args),
    /// Measure the server under load
    Load(load::Args),
    /// Run the case list of an operation on a backend
    Op(op::Args),
    /// Score keid-tiny on its held-out cases
    TinyEval(tiny_eval::Args),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Cross(args) => args.run(),
        Command::Device(args) => args.run(),
        Command::Draft(args) => args.run(),
        Command::E2e(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Kernels(args) => args.run(),
        Command::Load(args) => args.run(),
        Command::Op(args) => args.run(),
        Command::TinyEval(args) => args.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
