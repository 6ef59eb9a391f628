//! A conversation at the terminal.

use std::path::Path;

use anyhow::Context as _;
use chat::Thinking;

use super::chat::{Answer, Chat};
use super::screen::Screen;
use super::{Args, transcript};
use crate::print::{self, FAINT, Table};
use crate::term::command::{self, Command, Input};
use crate::term::editor::{LineEditor, Typed};
use crate::term::progress::status;
use crate::{Context, dirs};

/// Talks until the person ends it.
pub(super) fn talk(chat: &mut Chat, args: &Args, context: &mut Context) -> anyhow::Result<()> {
    let mut editor = LineEditor::new(dirs::data().join("history"))?;
    let mut repl =
        Repl { chat, args, context, attached: Vec::new(), typed: String::new(), last: None };
    repl.greet()?;
    let outcome = repl.run(&mut editor);
    if let Err(error) = editor.save() {
        context.note(&format!("{error:#}"));
    }
    outcome
}

struct Repl<'a> {
    chat: &'a mut Chat,
    args: &'a Args,
    context: &'a mut Context,
    /// Files that go into the next message: name and text.
    attached: Vec<(String, String)>,
    /// What the next line starts with.
    typed: String,
    last: Option<Answer>,
}

impl Repl<'_> {
    fn greet(&mut self) -> anyhow::Result<()> {
        let loaded = &self.chat.loaded;
        let (name, backend) = (&loaded.config.name, loaded.engine.info().backend);
        let size = print::bytes(loaded.plan.total());
        writeln!(self.context.out, "{name} on {backend}, {size}. /help lists the commands.")?;
        Ok(())
    }

    fn run(&mut self, editor: &mut LineEditor) -> anyhow::Result<()> {
        loop {
            self.show_status()?;
            let initial = std::mem::take(&mut self.typed);
            let line = match editor.read("> ", &initial)? {
                Typed::Line(line) => line,
                Typed::Dropped => continue,
                Typed::End => return Ok(()),
            };
            let done = match command::parse(&line) {
                Ok(Input::Empty) => Ok(()),
                Ok(Input::Message(text)) => self.say(&text),
                Ok(Input::Command(Command::Quit)) => return Ok(()),
                Ok(Input::Command(command)) => self.obey(command),
                Err(mistake) => Err(anyhow::Error::msg(mistake)),
            };
            // A mistake or a failure is told; the conversation goes on.
            if let Err(error) = done {
                if error.chain().any(crate::is_broken_pipe) {
                    return Err(error);
                }
                writeln!(self.context.out, "{error:#}")?;
            }
        }
    }

    fn show_status(&mut self) -> anyhow::Result<()> {
        if !self.context.quiet {
            let (used, context) = self.chat.filled();
            let line = status(used, context, self.chat.conversation.thinking.name());
            writeln!(self.context.out, "{FAINT}{line}{FAINT:#}")?;
        }
        Ok(())
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let message = with_files(&self.attached, text);
        let shown = (self.args.styled(), !self.args.hide_thinking);
        let mut screen = Screen::new(self.context, shown.0, shown.1);
        let answer = self.chat.answer(&message, &mut screen)?;
        screen.end(answer.ended)?;
        drop(screen);
        self.attached.clear();
        self.context.note(&answer.figures.line());
        self.last = Some(answer);
        Ok(())
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Help => self.tell(&command::help()),
            Command::Quit => Ok(()),
            Command::Mode(mode) => self.mode(mode.as_deref()),
            Command::Ctx(tokens) => self.ctx(tokens),
            Command::Read(path) => self.attach(path),
            Command::Undo => {
                self.take_back()?;
                self.tell("The last message is forgotten.\n")
            }
            Command::Regen => {
                let message = self.take_back()?;
                // The same seed would give the same answer.
                self.chat.sampling.seed = self.chat.sampling.seed.wrapping_add(1);
                self.say(&message)
            }
            Command::Edit => {
                self.typed = self.take_back()?;
                Ok(())
            }
            Command::Save(path) => {
                transcript::save(&self.chat.conversation, Path::new(&path))?;
                self.tell(&format!("Saved in {path}.\n"))
            }
            Command::Load(path) => self.load(&path),
            Command::System(text) => self.system(text),
            Command::Clear => {
                self.chat.conversation.clear();
                self.attached.clear();
                self.tell("Nothing has been said.\n")
            }
            Command::Stats => self.stats(),
        }
    }

    fn tell(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(write!(self.context.out, "{text}")?)
    }

    fn take_back(&mut self) -> anyhow::Result<String> {
        self.chat.take_back().context("nothing has been said")
    }

    fn mode(&mut self, mode: Option<&str>) -> anyhow::Result<()> {
        if let Some(mode) = mode {
            let thinking: Thinking = mode.parse().map_err(anyhow::Error::msg)?;
            self.chat.conversation.thinking = thinking;
        }
        let mode = self.chat.conversation.thinking;
        self.tell(&format!("Thinking is {mode}.\n"))
    }

    fn ctx(&mut self, tokens: Option<u32>) -> anyhow::Result<()> {
        if let Some(tokens) = tokens {
            // The old engine stays until the new one stands: a context that does not fit leaves
            // the conversation as it was.
            let model = crate::open::ModelArgs { ctx: Some(tokens), ..self.args.model.clone() };
            // A bar would stand in the conversation.
            self.chat.replace(model.open(true)?);
        }
        let (used, context) = self.chat.filled();
        let (used, context) = (print::count(used as u64), print::count(context as u64));
        self.tell(&format!("{used} of {context} tokens are in use.\n"))
    }

    fn attach(&mut self, path: String) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let size = print::bytes(text.len() as u64);
        self.attached.push((path.clone(), text));
        self.tell(&format!("{path} ({size}) goes into the next message.\n"))
    }

    fn load(&mut self, path: &str) -> anyhow::Result<()> {
        let n_vocab = self.chat.loaded.config.n_vocab;
        self.chat.conversation = transcript::load(Path::new(path), n_vocab)?;
        let n_turns = self.chat.conversation.turns().len();
        self.tell(&format!("{n_turns} messages and answers from {path}.\n"))
    }

    fn system(&mut self, text: Option<String>) -> anyhow::Result<()> {
        if let Some(text) = text {
            self.chat.conversation.system = (text != "-").then_some(text);
        }
        let text = match &self.chat.conversation.system {
            Some(text) => format!("{text}\n"),
            None => "There is no system text.\n".to_owned(),
        };
        self.tell(&text)
    }

    fn stats(&mut self) -> anyhow::Result<()> {
        if let Some(answer) = &self.last {
            let line = answer.figures.line();
            writeln!(self.context.out, "  {line}")?;
        }
        let mut table = Table::new(["", ""]);
        for line in &self.chat.loaded.plan.lines {
            table.row([line.label.to_owned(), print::bytes(line.bytes)]);
        }
        table.row(["all".to_owned(), print::bytes(self.chat.loaded.plan.total())]);
        Ok(table.print(&mut *self.context.out)?)
    }
}

/// A message with files before it, each between lines that name it.
fn with_files(files: &[(String, String)], text: &str) -> String {
    let file = |(name, text): &(String, String)| {
        format!("--- {name}\n{}\n--- end of {name}\n\n", text.trim_end_matches('\n'))
    };
    files.iter().map(file).collect::<String>() + text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stand_before_the_message_with_their_names() {
        let files = [("a.txt".to_owned(), "one\n\n".to_owned())];
        assert_eq!(with_files(&files, "sum"), "--- a.txt\none\n--- end of a.txt\n\nsum");
        assert_eq!(with_files(&[], "sum"), "sum");
    }
}
