//! `keid run`: one answer, or a conversation.

mod chat;
mod repl;
mod screen;
mod transcript;

use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use ::chat::Thinking;
use anyhow::{Context as _, bail};
use engine::Sampling;
use serde_json::json;

use crate::open::ModelArgs;
use crate::term::progress;
use crate::{Context, UsageError};
use chat::{Answer, Chat};
use screen::Screen;

/// Flags of `keid run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a question it talks with you; /help there lists the commands. What is piped in becomes
part of the question. Thinking goes to standard error, the answer to standard output.

Examples:
  keid run -m model.gguf \"What is a white dwarf?\"
  keid run -m model.gguf                             a conversation
  git diff | keid run -m model.gguf \"review this\"    text from a pipe
  keid run -m model.gguf --think off --json \"2+2\" | jq -r .content")]
pub(crate) struct Args {
    /// The question; several words are joined
    question: Vec<String>,
    /// Take the question from a file
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// What the model is told before everything else
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// How much the model thinks before it answers: off, low, high or max
    #[arg(long, value_name = "MODE", default_value = "high")]
    think: Thinking,
    /// Do not show what the model thinks
    #[arg(long)]
    hide_thinking: bool,
    /// Most tokens of an answer, thinking included [default: until the context is full]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Read the whole file into memory before the first token
    #[arg(long)]
    warm: bool,
    /// Print one JSON object instead of text; needs a question
    #[arg(long)]
    json: bool,
    /// Show markdown as it is written, not styled
    #[arg(long)]
    plain: bool,
    // Groups come last: what follows one would stand under its heading.
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// How tokens are chosen.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temp: f32,
    /// Choose among the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the most likely tokens that make up this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Leave out tokens below this share of the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,
    /// Divide the weight of recent tokens; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repeat_penalty: f32,
    /// Seed of the choices [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
}

impl SamplingArgs {
    fn sampling(&self) -> Result<Sampling, UsageError> {
        let sampling = Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last: Sampling::GREEDY.repeat_last,
            seed: self.seed.unwrap_or_else(clock_seed),
        };
        match sampling.check() {
            Ok(()) => Ok(sampling),
            Err((name, range, found)) => {
                Err(UsageError(format!("{name} should be {range}, found {found}")))
            }
        }
    }
}

/// A seed that differs from run to run.
fn clock_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() ^ u64::from(since.subsec_nanos()) << 20
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let sampling = self.sampling.sampling()?;
        let question = self.question()?;
        if question.is_none() && self.json {
            bail!(UsageError("--json needs a question".to_owned()));
        }
        if self.warm && self.warm(context)?.is_break() {
            return Ok(());
        }
        let loaded = self.model.open(context.quiet)?;
        if loaded.format.1 && matches!(self.think, Thinking::High | Thinking::Max) {
            context.note(&format!(
                "nothing in the file tells its prompt format; {} is assumed, --prompt-format \
                 chooses another",
                loaded.format.0
            ));
        }
        let mut chat = Chat::new(loaded, self.think, self.system.clone());
        chat.sampling = sampling;
        chat.answer_max = self.max_tokens.map_or(usize::MAX, |n| n as usize);
        match question {
            Some(question) => self.answer(&mut chat, &question, context),
            None => repl::talk(&mut chat, self, context),
        }
    }

    /// Touches every page of the file, so that no answer waits for the disk. Stopped by Ctrl-C.
    fn warm(&self, context: &Context) -> anyhow::Result<ControlFlow<()>> {
        let bar = progress::bytes_bar("warming", context.quiet);
        let armed = context.interrupt.arm();
        let touched = self.model.file()?.touch(|done, total| {
            bar.set_length(total);
            bar.set_position(done);
            if armed.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.finish_and_clear();
        Ok(touched)
    }

    /// The question from arguments, file and pipe, in this order, or `None` to talk.
    fn question(&self) -> anyhow::Result<Option<String>> {
        let mut parts = Vec::new();
        if !self.question.is_empty() {
            parts.push(self.question.join(" "));
        }
        if let Some(path) = &self.prompt_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            parts.push(text);
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            let mut text = String::new();
            stdin.lock().read_to_string(&mut text).context("cannot read standard input")?;
            parts.push(text);
        }
        parts.retain(|part| !part.trim().is_empty());
        if parts.is_empty() && !std::io::stdin().is_terminal() {
            bail!(UsageError("there is no question, and standard input is empty".to_owned()));
        }
        Ok((!parts.is_empty()).then(|| parts.join("\n\n")))
    }

    fn answer(&self, chat: &mut Chat, question: &str, context: &mut Context) -> anyhow::Result<()> {
        if self.json {
            let mut silent = screen::Silent::new(context);
            let answer = chat.answer(question, &mut silent)?;
            drop(silent);
            return self.print_json(chat, &answer, context);
        }
        let mut screen = Screen::new(context, self.styled(), !self.hide_thinking);
        let answer = chat.answer(question, &mut screen)?;
        screen.end(answer.ended)?;
        drop(screen);
        context.note(&answer.figures.line());
        Ok(())
    }

    fn print_json(
        &self,
        chat: &Chat,
        answer: &Answer,
        context: &mut Context,
    ) -> anyhow::Result<()> {
        let figures = answer.figures;
        let object = json!({
            "model": chat.loaded.config.name,
            "backend": chat.loaded.engine.info().backend,
            "seed": chat.sampling.seed,
            "content": answer.reply.content,
            "reasoning": answer.reply.reasoning,
            "finish": answer.ended,
            "figures": figures,
            "prefill_tokens_per_second": figures.prefill_rate(),
            "generation_tokens_per_second": figures.generation_rate(),
        });
        Ok(writeln!(context.out, "{object}")?)
    }

    /// Whether markdown is shown by styles: at a terminal, unless told otherwise.
    fn styled(&self) -> bool {
        !self.plain && std::io::stdout().is_terminal()
    }
}
