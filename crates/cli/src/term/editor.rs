//! Line editing: history, completion of commands and files, messages of several lines.

use std::path::PathBuf;

use anyhow::Context as _;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};

use super::command::{COMMANDS, Completes, entry};

/// Reads messages from a terminal.
pub(crate) struct LineEditor {
    editor: Editor<Assistance, DefaultHistory>,
    history: PathBuf,
}

/// What a person typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A message or a command.
    Line(String),
    /// Ctrl-C: the line is dropped.
    Dropped,
    /// Ctrl-D: the conversation ends.
    End,
}

impl LineEditor {
    /// An editor whose history lives in this file.
    pub(crate) fn new(history: PathBuf) -> anyhow::Result<Self> {
        let config = Config::builder().auto_add_history(true).max_history_size(1000)?;
        let config = config.bracketed_paste(true).build();
        let mut editor = Editor::with_config(config).context("cannot use this terminal")?;
        editor.set_helper(Some(Assistance { files: FilenameCompleter::new() }));
        if history.is_file() {
            editor
                .load_history(&history)
                .with_context(|| format!("cannot read the history {}", history.display()))?;
        }
        Ok(Self { editor, history })
    }

    /// Waits for a line, with `initial` already typed.
    pub(crate) fn read(&mut self, prompt: &str, initial: &str) -> anyhow::Result<Typed> {
        match self.editor.readline_with_initial(prompt, (initial, "")) {
            Ok(line) => Ok(Typed::Line(joined(&line))),
            Err(ReadlineError::Interrupted) => Ok(Typed::Dropped),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }

    /// Writes the history, readable by its owner alone.
    pub(crate) fn save(&mut self) -> anyhow::Result<()> {
        if let Some(parent) = self.history.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        self.editor
            .save_history(&self.history)
            .with_context(|| format!("cannot write the history {}", self.history.display()))
    }
}

/// A message of several lines as one text: continuation marks removed.
fn joined(line: &str) -> String {
    line.replace("\\\n", "\n")
}

/// What the editor knows about commands.
struct Assistance {
    files: FilenameCompleter,
}

impl Completer for Assistance {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        match completion(&line[..pos]) {
            Completion::Words(start, words) => Ok((start, words.into_iter().map(pair).collect())),
            Completion::File => self.files.complete(line, pos, context),
        }
    }
}

impl Validator for Assistance {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if unfinished(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Hinter for Assistance {
    type Hint = String;
}

impl Highlighter for Assistance {}

impl Helper for Assistance {}

/// Whether a message goes on in the next line: after a backslash, or inside a code block.
fn unfinished(text: &str) -> bool {
    let fences = text.lines().filter(|line| line.trim_start().starts_with("```")).count();
    text.ends_with('\\') || fences % 2 == 1
}

/// What the text before the cursor completes to.
#[derive(Debug, PartialEq)]
enum Completion {
    /// These words, replacing what is typed from here on.
    Words(usize, Vec<String>),
    /// Names of files.
    File,
}

fn completion(typed: &str) -> Completion {
    let Some(command) = typed.strip_prefix('/') else { return Completion::Words(0, Vec::new()) };
    let Some((name, argument)) = command.split_once(' ') else {
        let names = COMMANDS.iter().map(|entry| entry.names[0]);
        let names = names.filter(|name| name.starts_with(command));
        return Completion::Words(0, names.map(|name| format!("/{name} ")).collect());
    };
    match entry(name).map(|entry| entry.completes) {
        Some(Completes::Files) => Completion::File,
        Some(Completes::Words(words)) => {
            let words = words.iter().filter(|word| word.starts_with(argument));
            Completion::Words(
                typed.len() - argument.len(),
                words.map(ToString::to_string).collect(),
            )
        }
        Some(Completes::Nothing) | None => Completion::Words(typed.len(), Vec::new()),
    }
}

fn pair(word: String) -> Pair {
    Pair { display: word.trim().to_owned(), replacement: word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_modes_and_files_complete() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(completion("/re"), Completion::Words(0, words(&["/read ", "/regen "])));
        assert_eq!(completion("/mode h"), Completion::Words(6, words(&["high"])));
        assert_eq!(completion("/load chats/"), Completion::File);
        assert_eq!(completion("/undo x"), Completion::Words(7, Vec::new()));
        assert_eq!(completion("hello"), Completion::Words(0, Vec::new()));
    }

    #[test]
    fn messages_of_several_lines_are_joined() {
        assert!(unfinished("first\\") && unfinished("```rust\nlet a"));
        assert!(!unfinished("```\ncode\n```") && !unfinished("done"));
        assert_eq!(joined("a\\\nb"), "a\nb");
    }
}
