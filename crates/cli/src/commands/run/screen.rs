//! Where answers are shown.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chat::Event;

use super::chat::{Ended, Listener};
use crate::term::markdown::{Markdown, thinking};
use crate::term::progress::Reading;
use crate::{Armed, Context};

/// Shows an answer as it is made: the answer on standard output, thinking on standard error.
pub(super) struct Screen<'a> {
    out: &'a mut dyn Write,
    armed: Armed,
    reading: Option<Reading>,
    /// `None` shows text as it is.
    markdown: Option<Markdown>,
    show_thinking: bool,
    /// Whether thinking was shown last, and how it ended.
    thought: Option<char>,
    /// The last character of the answer.
    last: Option<char>,
}

impl<'a> Screen<'a> {
    pub(super) fn new(context: &'a mut Context, styled: bool, show_thinking: bool) -> Self {
        Self {
            armed: context.interrupt.arm(),
            reading: Some(Reading::new(context.quiet)),
            out: &mut *context.out,
            markdown: styled.then(Markdown::default),
            show_thinking,
            thought: None,
            last: None,
        }
    }

    /// Ends the answer with a line of its own.
    pub(super) fn end(&mut self, ended: Ended) -> anyhow::Result<()> {
        if let Some(markdown) = &mut self.markdown {
            let rest = markdown.finish();
            write!(self.out, "{rest}")?;
        }
        if self.last.is_some_and(|last| last != '\n') {
            writeln!(self.out)?;
        }
        self.out.flush()?;
        if self.last.is_none() && self.thought.is_some_and(|last| last != '\n') {
            aside("\n");
        }
        match ended {
            Ended::Stop => {}
            Ended::Length => aside(&thinking("[the limit of tokens was reached]\n")),
            Ended::Cancelled => aside(&thinking("[stopped]\n")),
        }
        Ok(())
    }

    fn think(&mut self, text: &str) {
        if self.show_thinking && !text.is_empty() {
            aside(&thinking(text));
            self.thought = text.chars().last().or(self.thought);
        }
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        if let (Some(last), None) = (self.thought, self.last) {
            // An empty line sets the answer apart from the thinking.
            aside(if last == '\n' { "\n" } else { "\n\n" });
        }
        match &mut self.markdown {
            Some(markdown) => {
                let shown = markdown.push(text);
                write!(self.out, "{shown}")?;
            }
            None => write!(self.out, "{text}")?,
        }
        self.last = text.chars().last().or(self.last);
        Ok(self.out.flush()?)
    }
}

/// Writes to standard error. Who reads only the answer may have closed it.
fn aside(text: &str) {
    let mut stderr = anstream::stderr();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

impl Listener for Screen<'_> {
    fn reading(&mut self, done: usize, total: usize) {
        if let Some(reading) = &self.reading {
            reading.set(done, total);
        }
    }

    fn begins(&mut self) {
        self.reading = None;
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::Reasoning(text) => self.think(text),
            Event::Content(text) => self.say(text)?,
            // A conversation at the terminal offers no tools.
            Event::ToolCall { .. } | Event::ToolArguments(_) | Event::End { .. } => {}
        }
        Ok(())
    }

    fn stop(&self) -> Arc<AtomicBool> {
        self.armed.flag()
    }
}

/// Shows the progress of reading and nothing else.
pub(super) struct Silent {
    armed: Armed,
    reading: Option<Reading>,
}

impl Silent {
    pub(super) fn new(context: &Context) -> Self {
        Self { armed: context.interrupt.arm(), reading: Some(Reading::new(context.quiet)) }
    }
}

impl Listener for Silent {
    fn reading(&mut self, done: usize, total: usize) {
        if let Some(reading) = &self.reading {
            reading.set(done, total);
        }
    }

    fn begins(&mut self) {
        self.reading = None;
    }

    fn event(&mut self, _: &Event) -> anyhow::Result<()> {
        Ok(())
    }

    fn stop(&self) -> Arc<AtomicBool> {
        self.armed.flag()
    }
}

#[cfg(test)]
mod tests {
    use crate::Interrupt;

    use super::*;

    #[test]
    fn the_answer_ends_with_a_line_break_and_thinking_stays_apart() {
        let interrupt = Interrupt::default();
        let mut shown = Vec::new();
        let mut screen = Screen {
            out: &mut shown,
            armed: interrupt.arm(),
            reading: None,
            markdown: None,
            show_thinking: true,
            thought: None,
            last: None,
        };
        screen.event(&Event::Reasoning("hm".into())).unwrap();
        screen.event(&Event::Content("**4**".into())).unwrap();
        screen.end(Ended::Stop).unwrap();
        assert_eq!(String::from_utf8(shown).unwrap(), "**4**\n");
    }
}
