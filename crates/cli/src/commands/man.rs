//! `keid man`: the manual page made from the flag table.

use anyhow::bail;

use crate::{Context, UsageError};

/// Flags of `keid man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keid man | man -l -
  keid man run > ~/.local/share/man/man1/keid-run.1")]
pub(crate) struct Args {
    /// The command to describe; without it, `keid` itself
    command: Option<String>,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let Some(page) = page(self.command.as_deref()) else {
            let name = self.command.as_deref().unwrap_or_default();
            bail!(UsageError(format!("there is no command `{name}`")));
        };
        Ok(context.out.write_all(&page?)?)
    }
}

/// The manual page, in roff, of `keid` or of one of its commands; `None` if there is no such
/// command.
pub fn page(command: Option<&str>) -> Option<std::io::Result<Vec<u8>>> {
    let mut keid = crate::command();
    keid.build();
    let command = match command {
        None => keid,
        Some(name) => {
            let found = keid.find_subcommand(name)?.clone();
            found.display_name(format!("keid-{name}"))
        }
    };
    let mut page = Vec::new();
    Some(clap_mangen::Man::new(command).render(&mut page).map(|()| page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_keid_and_for_each_command() {
        let roff = String::from_utf8(page(None).unwrap().unwrap()).unwrap();
        assert!(roff.contains("keid"));
        for command in crate::command().get_subcommands() {
            let name = command.get_name();
            let roff = String::from_utf8(page(Some(name)).unwrap().unwrap()).unwrap();
            assert!(roff.contains(name), "{name}");
        }
        assert!(page(Some("nonsense")).is_none());
    }
}
