//! The commands of a conversation (`/help`, `/undo`, …) as a table: parsing, help and completion
//! come from it.

use crate::values;

/// A line that was typed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// Something to say to the model.
    Message(String),
    /// Something to do.
    Command(Command),
    /// Nothing.
    Empty,
}

/// What a conversation can be told to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Explain the commands.
    Help,
    /// End the program.
    Quit,
    /// Show or set how much the model thinks.
    Mode(Option<String>),
    /// Show or set the context, in tokens.
    Ctx(Option<u32>),
    /// Put a file into the next message.
    Read(String),
    /// Forget the last exchange.
    Undo,
    /// Answer the last message again.
    Regen,
    /// Change the last message, to this or by hand, and answer it again.
    Edit(Option<String>),
    /// Write the conversation to a file.
    Save(String),
    /// Take a conversation from a file.
    Load(String),
    /// Show or set the system text.
    System(Option<String>),
    /// Start over, keeping the system text.
    Clear,
    /// Show sizes and speeds.
    Stats,
}

/// One command: how it is written, what it takes and what it does.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Without the slash; the first is the name, the others are accepted, too.
    pub(crate) names: &'static [&'static str],
    /// Argument as shown in the help; empty for none.
    pub(crate) argument: &'static str,
    /// What it does.
    pub(crate) help: &'static str,
    /// What an argument completes to.
    pub(crate) completes: Completes,
    parse: fn(&str) -> Result<Command, String>,
}

/// What the argument of a command completes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completes {
    /// Nothing.
    Nothing,
    /// Names of files.
    Files,
    /// These words.
    Words(&'static [&'static str]),
}

/// How much the model may be told to think.
pub(crate) const MODES: &[&str] = &["off", "low", "high", "max"];

/// Every command, in the order of the help.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        names: &["help", "?"],
        argument: "",
        help: "show this list",
        completes: Completes::Nothing,
        parse: |rest| alone(rest, Command::Help),
    },
    Entry {
        names: &["mode", "think"],
        argument: "[off|low|high|max]",
        help: "show or set how much the model thinks",
        completes: Completes::Words(MODES),
        parse: |rest| match rest {
            "" => Ok(Command::Mode(None)),
            mode if MODES.contains(&mode) => Ok(Command::Mode(Some(mode.to_owned()))),
            other => Err(format!("there is no mode `{other}`; there are {}", MODES.join(", "))),
        },
    },
    Entry {
        names: &["system"],
        argument: "[TEXT]",
        help: "show or set the system text; `/system -` removes it",
        completes: Completes::Nothing,
        parse: |rest| Ok(Command::System(some(rest))),
    },
    Entry {
        names: &["ctx"],
        argument: "[TOKENS]",
        help: "show or set the context, such as 64K",
        completes: Completes::Nothing,
        parse: |rest| match rest {
            "" => Ok(Command::Ctx(None)),
            text => values::tokens(text).map(|tokens| Command::Ctx(Some(tokens))),
        },
    },
    Entry {
        names: &["read"],
        argument: "FILE",
        help: "put a file into the next message",
        completes: Completes::Files,
        parse: |rest| path(rest).map(Command::Read),
    },
    Entry {
        names: &["undo"],
        argument: "",
        help: "forget the last message and its answer",
        completes: Completes::Nothing,
        parse: |rest| alone(rest, Command::Undo),
    },
    Entry {
        names: &["regen", "regenerate", "retry"],
        argument: "",
        help: "answer the last message again, differently",
        completes: Completes::Nothing,
        parse: |rest| alone(rest, Command::Regen),
    },
    Entry {
        names: &["edit"],
        argument: "[TEXT]",
        help: "change the last message, here or in the next line, and answer it again",
        completes: Completes::Nothing,
        parse: |rest| Ok(Command::Edit(some(rest))),
    },
    Entry {
        names: &["save"],
        argument: "FILE",
        help: "write the conversation to a file",
        completes: Completes::Files,
        parse: |rest| path(rest).map(Command::Save),
    },
    Entry {
        names: &["load"],
        argument: "FILE",
        help: "take a conversation from a file",
        completes: Completes::Files,
        parse: |rest| path(rest).map(Command::Load),
    },
    Entry {
        names: &["clear", "new"],
        argument: "",
        help: "start over, keeping the system text",
        completes: Completes::Nothing,
        parse: |rest| alone(rest, Command::Clear),
    },
    Entry {
        names: &["stats", "status"],
        argument: "",
        help: "show sizes and speeds",
        completes: Completes::Nothing,
        parse: |rest| alone(rest, Command::Stats),
    },
    Entry {
        names: &["quit", "exit", "q"],
        argument: "",
        help: "leave; so does Ctrl-D",
        completes: Completes::Nothing,
        parse: |rest| alone(rest, Command::Quit),
    },
];

/// Understands a line. A message may begin with a slash if it is doubled.
pub(crate) fn parse(line: &str) -> Result<Input, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(Input::Empty);
    }
    let Some(command) = line.strip_prefix('/') else {
        return Ok(Input::Message(line.to_owned()));
    };
    if command.starts_with('/') {
        return Ok(Input::Message(command.to_owned()));
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    match entry(name) {
        Some(entry) => (entry.parse)(rest.trim()).map(Input::Command),
        None => Err(format!("there is no command `/{name}`; `/help` lists them")),
    }
}

/// The command with this name.
pub(crate) fn entry(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.names.contains(&name))
}

/// The list that `/help` prints.
pub(crate) fn help() -> String {
    let usage = |entry: &Entry| format!("/{} {}", entry.names[0], entry.argument);
    let width = COMMANDS.iter().map(|entry| usage(entry).len()).max().unwrap_or_default();
    let line = |entry: &Entry| format!("  {:<width$}  {}\n", usage(entry), entry.help);
    let list: String = COMMANDS.iter().map(line).collect();
    list + "  End a line with \\ to go on in the next; Ctrl-C stops an answer.\n"
}

fn alone(rest: &str, command: Command) -> Result<Command, String> {
    if rest.is_empty() { Ok(command) } else { Err(format!("unexpected `{rest}`")) }
}

fn path(rest: &str) -> Result<String, String> {
    some(rest).ok_or_else(|| "which file?".to_owned())
}

fn some(rest: &str) -> Option<String> {
    (!rest.is_empty()).then(|| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command {
        match parse(line) {
            Ok(Input::Command(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn lines_are_messages_or_commands() {
        assert_eq!(parse("  hello /undo "), Ok(Input::Message("hello /undo".into())));
        assert_eq!(parse("//etc is a path"), Ok(Input::Message("/etc is a path".into())));
        assert_eq!(parse("   "), Ok(Input::Empty));
        assert_eq!(command("/undo"), Command::Undo);
        assert_eq!(command("/think high"), Command::Mode(Some("high".into())));
        assert_eq!(command("/mode"), Command::Mode(None));
        assert_eq!(command("/ctx 64K"), Command::Ctx(Some(65_536)));
        assert_eq!(
            command("/read  a file with spaces.txt "),
            Command::Read("a file with spaces.txt".into())
        );
        assert_eq!(command("/system be brief"), Command::System(Some("be brief".into())));
        assert_eq!(command("/q"), Command::Quit);
    }

    #[test]
    fn mistakes_are_explained() {
        for (line, said) in [
            ("/frobnicate", "no command `/frobnicate`"),
            ("/mode fast", "no mode `fast`"),
            ("/ctx many", "`many` is not an amount"),
            ("/read", "which file?"),
            ("/undo twice", "unexpected `twice`"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn every_name_is_unique_and_every_command_is_in_the_help() {
        let mut names: Vec<_> = COMMANDS.iter().flat_map(|entry| entry.names).collect();
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n);
        assert!(COMMANDS.iter().all(|entry| help().contains(entry.help)));
    }
}
