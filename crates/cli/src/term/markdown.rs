//! Markdown as it streams in, for a terminal: headings, emphasis, lists, quotes and code, shown
//! by colour. Text comes out as soon as it is certain what it is; at most the start of a line or
//! a run of delimiters is held back.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

const HEADING: Style = Style::new().bold().underline();
const BOLD: Style = Style::new().bold();
const ITALIC: Style = Style::new().italic();
const CODE: Style = AnsiColor::Cyan.on_default();
const FAINT: Style = Style::new().dimmed();
/// The style of what the model thinks.
const THINKING: Style = Style::new().dimmed().italic();

/// Renders one answer.
#[derive(Debug, Default)]
pub(crate) struct Markdown {
    /// Held back until it is certain what it is.
    held: String,
    line: Line,
    bold: bool,
    italic: bool,
    code: bool,
    /// The last character that was written: `*` after a space opens, before one it is a star.
    last: Option<char>,
    /// The fence that closes the code block that is open.
    fence: Option<String>,
}

/// What the line at hand is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Not known yet.
    #[default]
    Start,
    Text,
    Heading,
    Quote,
    /// Inside a code block.
    Code,
}

impl Markdown {
    /// Takes in more text and gives what can be shown of it.
    pub(crate) fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        self.held.push_str(text);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_str();
        while !rest.is_empty() {
            let taken = match self.line {
                Line::Start => self.start_line(rest, &mut out),
                Line::Code => self.code_line(rest, &mut out),
                Line::Text | Line::Heading | Line::Quote => self.inline(rest, &mut out),
            };
            let Some(taken) = taken else { break };
            rest = &rest[taken..];
        }
        self.held = rest.to_owned();
        out
    }

    /// Ends the answer: gives what was held back and switches every style off.
    pub(crate) fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        let mut out = if held.trim_start_matches(' ').is_empty() || self.line == Line::Start {
            held
        } else {
            self.inline_end(&held)
        };
        let _ = write!(out, "{}", anstyle::Reset.render());
        *self = Self::default();
        out
    }

    /// Decides what a line is. `None` if that takes more text.
    fn start_line(&mut self, rest: &str, out: &mut String) -> Option<usize> {
        let line_end = rest.find('\n');
        let line = &rest[..line_end.unwrap_or(rest.len())];
        let text = line.trim_start_matches(' ');
        let indent = &line[..line.len() - text.len()];
        if text.starts_with("```") || text.starts_with("~~~") {
            // The whole fence is needed: its length and its language.
            let end = line_end?;
            self.open_fence(text);
            let _ = write!(out, "{indent}{FAINT}{text}{FAINT:#}\n{CODE}");
            return Some(end + 1);
        }
        let marker = ["```", "~~~", "######"].iter().any(|mark| {
            !text.is_empty() && mark.starts_with(text) || text.is_empty() && line_end.is_none()
        });
        let list_marker = matches!(text, "-" | "*" | "+") || text == "**";
        if line_end.is_none() && (marker || list_marker) {
            return None;
        }
        out.push_str(indent);
        let hashes = text.len() - text.trim_start_matches('#').len();
        let mut taken = indent.len();
        self.last = None;
        if (1..=6).contains(&hashes) && text[hashes..].starts_with(' ') {
            self.line = Line::Heading;
            let _ = write!(out, "{HEADING}");
            taken += hashes + 1;
        } else if text.starts_with('>') {
            self.line = Line::Quote;
            let _ = write!(out, "{FAINT}│");
            taken += 1;
        } else if let Some(bullet) = ["- ", "* ", "+ "].iter().find(|b| text.starts_with(**b)) {
            self.line = Line::Text;
            out.push_str("• ");
            taken += bullet.len();
        } else {
            self.line = Line::Text;
        }
        if taken == 0 && rest.starts_with('\n') {
            return self.inline(rest, out);
        }
        // A line of text without marks is taken up by `inline` at once.
        if taken == 0 { self.inline(rest, out) } else { Some(taken) }
    }

    fn open_fence(&mut self, text: &str) {
        let mark = &text[..1];
        let length = text.len() - text.trim_start_matches(mark).len();
        self.fence = Some(mark.repeat(length));
        self.line = Line::Code;
    }

    /// Code line by line: only a whole line can be told from the closing fence.
    fn code_line(&mut self, rest: &str, out: &mut String) -> Option<usize> {
        let fence = self.fence.clone().unwrap_or_default();
        let Some(end) = rest.find('\n') else {
            let text = rest.trim_start_matches(' ');
            if fence.starts_with(text) || text.starts_with(&fence) {
                return None;
            }
            out.push_str(rest);
            // The rest of this line cannot close the block any more.
            self.fence = Some(fence);
            return Some(rest.len());
        };
        let line = &rest[..end];
        if line.trim().starts_with(&fence) {
            let _ = writeln!(out, "{CODE:#}{FAINT}{line}{FAINT:#}");
            self.fence = None;
            self.line = Line::Start;
        } else {
            out.push_str(&rest[..=end]);
        }
        Some(end + 1)
    }

    /// Text with emphasis and code spans, up to the end of the line or of what is there.
    fn inline(&mut self, rest: &str, out: &mut String) -> Option<usize> {
        let mut chars = rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c == '\n' {
                self.end_line(out);
                return Some(at + 1);
            }
            let next = chars.peek().map(|(_, c)| *c);
            match c {
                '`' => {
                    self.code = !self.code;
                    self.restyle(out);
                }
                '*' if !self.code => {
                    if next.is_none() {
                        // One star or two? The next character tells.
                        return (at > 0).then_some(at);
                    }
                    if next == Some('*') {
                        let after = rest[at + 2..].chars().next();
                        if after.is_none() {
                            return (at > 0).then_some(at);
                        }
                        chars.next();
                        self.emphasis(after, true, out);
                    } else {
                        self.emphasis(next, false, out);
                    }
                }
                c => out.push(c),
            }
            self.last = Some(c);
        }
        Some(rest.len())
    }

    /// A star or two: opens before a word, closes after one, is itself between spaces.
    fn emphasis(&mut self, next: Option<char>, double: bool, out: &mut String) {
        let open = if double { self.bold } else { self.italic };
        let before = self.last.is_some_and(|c| !c.is_whitespace());
        let after = next.is_some_and(|c| !c.is_whitespace());
        if open && before || !open && after {
            let state = if double { &mut self.bold } else { &mut self.italic };
            *state = !*state;
            self.restyle(out);
        } else {
            out.push_str(if double { "**" } else { "*" });
        }
    }

    /// What was held back at the end of an answer: delimiters that nothing follows.
    fn inline_end(&mut self, held: &str) -> String {
        match held.trim_end_matches('*') {
            "" if self.bold || self.italic => String::new(),
            _ => held.to_owned(),
        }
    }

    fn end_line(&mut self, out: &mut String) {
        // Emphasis ends with its line, so that a stray star cannot colour the rest.
        (self.bold, self.italic, self.code) = (false, false, false);
        let _ = write!(out, "{}", anstyle::Reset.render());
        out.push('\n');
        self.line = Line::Start;
        self.last = None;
    }

    fn restyle(&self, out: &mut String) {
        let _ = write!(out, "{}", anstyle::Reset.render());
        match self.line {
            Line::Heading => {
                let _ = write!(out, "{HEADING}");
            }
            Line::Quote => {
                let _ = write!(out, "{FAINT}");
            }
            Line::Start | Line::Text | Line::Code => {}
        }
        for (on, style) in [(self.bold, BOLD), (self.italic, ITALIC), (self.code, CODE)] {
            if on {
                let _ = write!(out, "{style}");
            }
        }
    }
}

/// What the model thinks, set apart from what it says.
pub(crate) fn thinking(text: &str) -> String {
    format!("{THINKING}{text}{THINKING:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Styles as letters between angle brackets.
    fn shown(chunks: &[&str]) -> String {
        let mut markdown = Markdown::default();
        let mut text: String = chunks.iter().map(|chunk| markdown.push(chunk)).collect();
        text += &markdown.finish();
        let styles = [
            (format!("{HEADING}"), "<h>"),
            (format!("{CODE}"), "<c>"),
            (format!("{CODE:#}"), "<>"),
            (format!("{BOLD}"), "<b>"),
            (format!("{ITALIC}"), "<i>"),
            (format!("{FAINT}"), "<f>"),
        ];
        for (ansi, letter) in styles {
            text = text.replace(&ansi, letter);
        }
        text
    }

    /// However an answer is cut into tokens, it looks the same.
    #[track_caller]
    fn check(source: &str, want: &str) {
        assert_eq!(shown(&[source]), want, "in one piece");
        let chars: Vec<String> = source.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(shown(&chars), want, "by characters");
    }

    #[test]
    fn plain_text_passes_through() {
        check("a\nb", "a<>\nb<>");
        check("2 * 3 = 6, a*b", "2 * 3 = 6, a<><i>b<>");
        check("5 < 6 and #hash", "5 < 6 and #hash<>");
    }

    #[test]
    fn emphasis_and_code_spans_are_styled() {
        check("a **b** c", "a <><b>b<> c<>");
        check("*a* `b*c`", "<><i>a<> <><c>b*c<><>");
        check("**open\nnext", "<><b>open<>\nnext<>");
    }

    #[test]
    fn lines_are_known_by_their_start() {
        check("# Title\ntext", "<h>Title<>\ntext<>");
        check("- a\n  * b\n", "• a<>\n  • b<>\n<>");
        check("> said\n", "<f>│ said<>\n<>");
        check("---\n", "---<>\n<>");
    }

    #[test]
    fn code_blocks_end_at_their_own_fence() {
        check("```rust\nlet a = *b;\n```\nend", "<f>```rust<>\n<c>let a = *b;\n<><f>```<>\nend<>");
        check("````\n```\n````\n", "<f>````<>\n<c>```\n<><f>````<>\n<>");
    }

    #[test]
    fn text_is_shown_as_soon_as_it_is_certain() {
        let mut markdown = Markdown::default();
        assert_eq!(markdown.push("He"), "He");
        assert_eq!(markdown.push("llo *"), "llo ");
        assert_eq!(markdown.push("#"), format!("{}{ITALIC}#", anstyle::Reset.render()));
    }
}
