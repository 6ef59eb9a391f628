//! `cargo xtask generate DIR`: manual pages and completion scripts, for packages. They are made
//! from the flag table and kept nowhere, so that they cannot go stale.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap_complete::Shell;

/// Flags of `cargo xtask generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write; `man` and `completions` are made in it
    directory: PathBuf,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        self.manual(&self.directory.join("man"))?;
        self.completions(&self.directory.join("completions"))
    }

    fn manual(&self, directory: &Path) -> anyhow::Result<()> {
        make(directory)?;
        let command = cli::command();
        let names = command.get_subcommands().map(|command| Some(command.get_name()));
        for name in std::iter::once(None).chain(names) {
            let page = cli::commands::manual_page(name).context("a command has a page")??;
            let file = name.map_or("keid.1".to_owned(), |name| format!("keid-{name}.1"));
            write(&directory.join(file), &page)?;
        }
        Ok(())
    }

    fn completions(&self, directory: &Path) -> anyhow::Result<()> {
        make(directory)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "keid", &mut script);
            write(&directory.join(format!("keid.{shell}")), &script)?;
        }
        Ok(())
    }
}

fn make(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_gets_a_page_and_every_shell_a_script() {
        let dir = tempfile::tempdir().unwrap();
        Args { directory: dir.path().to_owned() }.run().unwrap();
        let n_files = |name| fs::read_dir(dir.path().join(name)).unwrap().count();
        assert_eq!(n_files("man"), 1 + cli::command().get_subcommands().count());
        assert_eq!(n_files("completions"), 3);
    }
}
