//! `keid completions`: a completion script made from the flag table.

use crate::Context;

/// Flags of `keid completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bash   keid completions bash > ~/.local/share/bash-completion/completions/keid
  zsh    keid completions zsh > ~/.zfunc/_keid    (with ~/.zfunc in $fpath)
  fish   keid completions fish > ~/.config/fish/completions/keid.fish")]
pub(crate) struct Args {
    /// The shell to write for
    shell: clap_complete::Shell,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        // Made in memory first: the generator panics where its writer fails.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::command(), "keid", &mut script);
        Ok(context.out.write_all(&script)?)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_shell_has_a_script_that_knows_the_commands() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut crate::command(), "keid", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("completions"), "{shell}");
        }
    }
}
