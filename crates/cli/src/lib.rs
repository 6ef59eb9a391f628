//! The command line of Keid: parses flags, calls the libraries, prints results and errors.
//! The only crate that names all backends and the only one that reads the environment.
//! It is a library so that the manual and the completions come from the same flag table.

pub mod commands;
mod dirs;
mod interrupt;
mod open;
mod print;
mod term;
pub mod values;

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

pub use interrupt::{Armed, Interrupt};

/// Everything that `keid` accepts.
#[derive(Debug, Parser)]
#[command(
    name = "keid",
    about = "Runs DeepSeek V4 models on this machine",
    long_about = "Keid runs DeepSeek V4 models (Flash, Pro and any other size of the same \
                  architecture) from GGUF files, on this machine.",
    after_help = "Examples:\n  \
                  keid plan                     what fits on this machine\n  \
                  keid inspect model.gguf       what a file holds and whether it fits\n  \
                  keid run -m model.gguf        chat\n\n\
                  `keid help COMMAND` explains a command, with examples.",
    version = version(),
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: commands::Command,
}

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// When to colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    #[arg(help_heading = "Global options")]
    color: clap::ColorChoice,
    /// Print no progress bars and no status lines
    #[arg(short, long, global = true, help_heading = "Global options")]
    quiet: bool,
}

/// What a command gets besides its own flags.
pub struct Context {
    /// Standard output, with colours removed where it does not take them.
    pub out: Box<dyn Write>,
    /// Whether progress bars and status lines are unwanted.
    pub quiet: bool,
    /// Ctrl-C.
    pub interrupt: Interrupt,
}

impl Context {
    /// Says something beside the output, on standard error, unless that is unwanted.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            let faint = print::FAINT;
            // Who reads only the output may have closed standard error.
            let _ = writeln!(anstream::stderr(), "{faint}{text}{faint:#}");
        }
    }
}

/// A mistake in how the command was called that parsing alone cannot see. Exits with code 2,
/// like the mistakes that parsing sees.
#[derive(Debug)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The flag table as clap sees it: the source of help, manual and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The version, with the commit where the build knew it.
pub fn version() -> &'static str {
    const COMMIT: &str = env!("KEID_COMMIT");
    if COMMIT.is_empty() {
        env!("CARGO_PKG_VERSION")
    } else {
        concat!(env!("CARGO_PKG_VERSION"), " (", env!("KEID_COMMIT"), ")")
    }
}

/// Parses the process's arguments, runs the command and turns its outcome into an exit code:
/// 0 for success, 1 for a failure, 2 for a wrong call.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.global.color {
        clap::ColorChoice::Auto => {}
        clap::ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        clap::ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    let mut context = Context {
        out: Box::new(anstream::stdout()),
        quiet: cli.global.quiet,
        interrupt: Interrupt::install(),
    };
    open::prepare_process();
    let outcome = cli.command.run(&mut context);
    let outcome = outcome.and_then(|()| Ok(context.out.flush()?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Prints an error with its causes and chooses the exit code. A reader that went away
/// (`keid … | head`) is not an error.
fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    // Nothing is left to do where standard error is closed as well.
    let _ = write_error(&mut anstream::stderr(), error);
    match error.is::<UsageError>() {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

/// Writes `error: …` and one line a cause. Causes that an outer message already quotes are
/// left out: some libraries print their source themselves.
fn write_error(to: &mut dyn Write, error: &anyhow::Error) -> io::Result<()> {
    let red = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    let mut said = error.to_string();
    writeln!(to, "{red}error{red:#}: {said}")?;
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            writeln!(to, "  caused by: {cause}")?;
            said = cause;
        }
    }
    Ok(())
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => true,
        Some(error) => error.source().is_some_and(is_broken_pipe),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn printed(error: &anyhow::Error) -> String {
        let mut bytes = Vec::new();
        write_error(&mut anstream::StripStream::new(&mut bytes), error).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn errors_print_their_causes_once() {
        let io = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = Err::<(), _>(io).context("cannot read x.gguf").context("cannot start");
        let error = error.unwrap_err();
        assert_eq!(
            printed(&error),
            "error: cannot start\n  caused by: cannot read x.gguf\n  caused by: no such file\n"
        );
        let repeats = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(printed(&repeats), "error: cannot read x: no such file\n");
    }

    #[test]
    fn a_broken_pipe_is_recognised_below_context() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = Err::<(), _>(pipe).context("cannot print").unwrap_err();
        assert!(error.chain().any(is_broken_pipe));
        let other = anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound));
        assert!(!other.chain().any(is_broken_pipe));
    }

    #[test]
    fn the_flag_table_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        for command in command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "`{name}` has no summary");
            let help = command.get_after_help().or(command.get_after_long_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("keid {name}")), "`{name}` shows no example");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "`{name}`: `{}` is unexplained", arg.get_id());
            }
        }
    }
}
