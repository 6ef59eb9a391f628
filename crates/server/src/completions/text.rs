use tokenizer::Utf8Stream;

/// The text of an answer as it may be shown: whole characters, and nothing that may turn out to
/// be the beginning of a stop string.
pub(super) struct AnswerText {
    stop: Vec<String>,
    utf8: Utf8Stream,
    held: String,
    n_chars: usize,
    is_stopped: bool,
}

impl AnswerText {
    /// `n_chars` is where the answer begins in the text that is shown.
    pub(super) fn new(stop: Vec<String>, n_chars: usize) -> Self {
        Self { stop, utf8: Utf8Stream::new(), held: String::new(), n_chars, is_stopped: false }
    }

    /// Takes in a token's bytes and gives what may be shown.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let text = self.utf8.push(bytes);
        self.take(&text)
    }

    /// Ends the text and gives the rest.
    pub(super) fn finish(&mut self) -> String {
        let rest = self.utf8.finish();
        let shown = self.take(&rest);
        shown + &std::mem::take(&mut self.held)
    }

    /// Counts text that was shown before the answer.
    pub(super) fn skip(&mut self, text: &str) {
        self.n_chars += text.chars().count();
    }

    /// Whether a stop string was found.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Characters up to here, shown or held back.
    pub(super) fn n_chars(&self) -> usize {
        self.n_chars
    }

    fn take(&mut self, text: &str) -> String {
        if self.is_stopped {
            return String::new();
        }
        self.n_chars += text.chars().count();
        self.held.push_str(text);
        let found = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.is_stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let longest = |stop: &String| {
            let starts = |n: &usize| self.held.ends_with(&stop[..*n]);
            (1..stop.len()).rev().filter(|n| stop.is_char_boundary(*n)).find(starts).unwrap_or(0)
        };
        let kept = self.stop.iter().map(longest).max().unwrap_or(0);
        let shown = self.held.len() - kept;
        self.held.drain(..shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stop: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut text = AnswerText::new(stop, 0);
        let mut shown: Vec<String> = parts.iter().map(|part| text.push(part.as_bytes())).collect();
        shown.push(text.finish());
        (shown, text.is_stopped())
    }

    #[test]
    fn stop_strings_are_cut_and_their_beginnings_held_back() {
        let (parts, is_stopped) = shown(&["\n\nQ:"], &["A.", "\n", "\nQ", ": no"]);
        assert_eq!((parts.concat().as_str(), is_stopped), ("A.", true));
        let (parts, is_stopped) = shown(&["\n\nQ:"], &["A.\n", "\nX"]);
        assert_eq!(parts, ["A.", "\n\nX", ""]);
        assert!(!is_stopped);
        let (parts, _) = shown(&["日本"], &["日", "記"]);
        assert_eq!(parts, ["", "日記", ""]);
        let (parts, _) = shown(&["ab"], &["xa"]);
        assert_eq!(parts, ["x", "a"], "what was held back is shown at the end");
    }
}
