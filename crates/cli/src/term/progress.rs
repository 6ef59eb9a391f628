//! A bar while a long prompt is read, and the line of figures after an answer.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::print;

/// Shows how far a prompt has been read. Short prompts show nothing.
#[derive(Debug)]
pub(crate) struct Reading {
    bar: ProgressBar,
}

/// Prompts below this many tokens are read before a bar would be noticed.
const SHORT: usize = 256;

/// A bar of bytes on standard error, with what is being done to them.
pub(crate) fn bytes_bar(doing: &str, quiet: bool) -> ProgressBar {
    let what =
        "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    bar(&format!("{doing} {what}"), quiet)
}

/// A bar of tokens on standard error.
pub(crate) fn tokens_bar(quiet: bool) -> ProgressBar {
    bar("measuring {bar:30} {human_pos} of {human_len} tokens, {eta} left", quiet)
}

fn bar(template: &str, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    // Templates are constants here: a mistake in one would show in every run.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

impl Reading {
    pub(crate) fn new(quiet: bool) -> Self {
        let template = "reading {bar:30} {human_pos} of {human_len} tokens, {eta} left";
        Self { bar: bar(template, quiet) }
    }

    /// Tells that `done` of `total` tokens have been read.
    pub(crate) fn set(&self, done: usize, total: usize) {
        if total >= SHORT {
            self.bar.set_length(total as u64);
            self.bar.set_position(done as u64);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Figures {
    /// Tokens of the prompt that were read or known.
    pub(crate) prompt_tokens: usize,
    /// Of these, tokens that were still known.
    pub(crate) reused_tokens: usize,
    /// Seconds of reading the others.
    pub(crate) prefill_seconds: f64,
    /// Tokens of the answer, thinking included.
    pub(crate) generated_tokens: usize,
    /// Seconds of making them.
    pub(crate) generation_seconds: f64,
}

impl Figures {
    /// Tokens read per second; `None` if nothing was read.
    pub(crate) fn prefill_rate(&self) -> Option<f64> {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill_seconds)
    }

    /// Tokens made per second; `None` if there were none but the first, which reading made.
    pub(crate) fn generation_rate(&self) -> Option<f64> {
        rate(self.generated_tokens, self.generation_seconds).filter(|_| self.generated_tokens > 1)
    }

    /// The line after an answer.
    pub(crate) fn line(&self) -> String {
        let figure = |rate: Option<f64>| match rate {
            Some(rate) => format!("{} t/s", print::rate(rate)),
            None => "-".to_owned(),
        };
        let reused = match self.reused_tokens {
            0 => String::new(),
            n => format!(", {} known", print::count(n as u64)),
        };
        format!(
            "prefill {} ({} tokens{reused}), generation {} ({} tokens)",
            figure(self.prefill_rate()),
            print::count(self.prompt_tokens as u64),
            figure(self.generation_rate()),
            print::count(self.generated_tokens as u64),
        )
    }
}

fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

/// The line above the prompt of a conversation.
pub(crate) fn status(used: usize, context: usize, mode: &str) -> String {
    let percent = used * 100 / context.max(1);
    let (used, context) = (print::count(used as u64), print::count(context as u64));
    format!("{used} of {context} tokens ({percent} %), thinking {mode}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rates_of_what_was_done() {
        let figures = Figures {
            prompt_tokens: 1200,
            reused_tokens: 200,
            prefill_seconds: 4.0,
            generated_tokens: 30,
            generation_seconds: 2.0,
        };
        assert_eq!(
            figures.line(),
            "prefill 250 t/s (1,200 tokens, 200 known), generation 15.0 t/s (30 tokens)"
        );
        let nothing = Figures { prompt_tokens: 5, reused_tokens: 5, ..Figures::default() };
        assert_eq!(nothing.line(), "prefill - (5 tokens, 5 known), generation - (0 tokens)");
    }

    #[test]
    fn the_status_says_how_full_the_context_is() {
        assert_eq!(status(16_384, 32_768, "high"), "16,384 of 32,768 tokens (50 %), thinking high");
    }
}
