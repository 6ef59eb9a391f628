//! The model under test: several conversations at once, as a server would hold them.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use backend_cpu::{Cpu, PoolOptions};
use chat::{Finish, FormatHints, ParserOptions, PromptFormat, Reply, StreamParser};
use engine::{Core, Engine as _, Feed, Options, Wanted, argmax, prefill};
use gguf::Gguf;
use model::{Config, bind_mtp, find_mtp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizer::Tokenizer;

use super::case::Case;
use crate::ask;

/// An answer that is longer does not stop by itself.
const ANSWER_TOKENS: usize = 400;
/// Tokens that decoding is timed over.
const TIMED_TOKENS: usize = 200;

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// Whether it ended with the end token.
    pub(super) stopped: bool,
    /// First draft tokens, and those that the model then chose.
    pub(super) drafted: usize,
    pub(super) accepted: usize,
}

/// How fast a lone conversation is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Speed {
    threads: usize,
    /// Opening the file and answering a short question up to its first token.
    first_token_seconds: f64,
    /// One conversation, without drafts.
    decode_tokens_per_second: f64,
}

/// The model, ready to answer.
pub(super) struct Subject {
    core: Core<Cpu>,
    tokenizer: Arc<Tokenizer>,
    format: PromptFormat,
    eos: u32,
    fingerprint: [u8; 32],
    threads: usize,
    opened: Instant,
}

/// A conversation in a slot.
struct Talk<'a> {
    case: &'a Case,
    parser: StreamParser,
    answer: Answer,
    /// The token chosen last, not yet fed.
    token: u32,
    /// What the MTP block expects that token to be.
    guess: Option<u32>,
    n_tokens: usize,
}

impl Subject {
    /// Opens a model for `n_slots` conversations.
    pub(super) fn open(path: &Path, n_slots: usize) -> anyhow::Result<Self> {
        let opened = Instant::now();
        let gguf = Gguf::open(path)?;
        let config = Config::from_gguf(&gguf)?;
        let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
        let hints = FormatHints::from_metadata(gguf.metadata())?;
        let format = PromptFormat::detect(&hints)?.format;
        let mtp = match find_mtp(&gguf, &config) {
            Some(source) => Some(bind_mtp(&gguf, &config, &source)?),
            None => None,
        };
        let one = Options::single(config.context_max, 512);
        let options = Options {
            n_slots,
            pool_tokens: n_slots * one.context,
            logit_rows: n_slots,
            draft: mtp.is_some(),
            ..one
        };
        let cpu = Cpu::new(PoolOptions { threads: None, pin: false })?;
        let threads = cpu.threads();
        let eos = tokenizer.special_id(chat::EOS).context("the vocabulary has no end token")?;
        let core = Core::open(cpu, &gguf, config, mtp.as_ref(), options)?;
        let fingerprint = gguf.fingerprint();
        Ok(Self { core, tokenizer: Arc::new(tokenizer), format, eos, fingerprint, threads, opened })
    }

    /// Tells this file from others.
    pub(super) fn fingerprint(&self) -> String {
        self.fingerprint[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Times a short question; to be asked first, so that the file's opening counts.
    pub(super) fn speed(&mut self) -> anyhow::Result<Speed> {
        let request = json!({
            "messages": [{"role": "user", "content": "What is 17 + 25?"}],
            "thinking": {"type": "disabled"},
        });
        let (ids, _) = self.prompt(&request)?;
        let mut token = self.read(0, &ids)?;
        let first_token_seconds = self.opened.elapsed().as_secs_f64();
        let start = Instant::now();
        for _ in 0..TIMED_TOKENS {
            self.core.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }])?;
            self.core.commit(&[1])?;
            token = argmax(self.core.logits(0));
        }
        let decode_tokens_per_second = TIMED_TOKENS as f64 / start.elapsed().as_secs_f64();
        self.core.release(0);
        Ok(Speed { threads: self.threads, first_token_seconds, decode_tokens_per_second })
    }

    /// Answers every case greedily and tells each answer.
    pub(super) fn answer_all<'a>(
        &mut self,
        cases: &'a [Case],
        tell: &mut dyn FnMut(&'a Case, &Answer),
    ) -> anyhow::Result<()> {
        let mut waiting: VecDeque<&Case> = cases.iter().collect();
        let n_slots = self.core.info().options.n_slots;
        let mut talks: Vec<Option<Talk<'a>>> = (0..n_slots).map(|_| None).collect();
        loop {
            for (slot, talk) in talks.iter_mut().enumerate() {
                if talk.is_none()
                    && let Some(case) = waiting.pop_front()
                {
                    *talk = Some(self.start(slot, case)?);
                }
            }
            for (slot, place) in talks.iter_mut().enumerate() {
                let Some(talk) = place.as_mut() else { continue };
                if talk.advance(self.eos)? {
                    tell(talk.case, &talk.answer);
                    *place = None;
                    self.core.release(slot);
                }
            }
            self.step(&mut talks)?;
            if waiting.is_empty() && talks.iter().all(Option::is_none) {
                return Ok(());
            }
        }
    }

    /// Reads a case's prompt and chooses the answer's first token.
    fn start<'a>(&mut self, slot: usize, case: &'a Case) -> anyhow::Result<Talk<'a>> {
        let (ids, parsing) = self.prompt(&case.request)?;
        let token = self.read(slot, &ids)?;
        Ok(Talk {
            case,
            parser: StreamParser::new(self.tokenizer.clone(), parsing),
            answer: Answer { reply: Reply::default(), stopped: false, drafted: 0, accepted: 0 },
            token,
            guess: None,
            n_tokens: 0,
        })
    }

    fn read(&mut self, slot: usize, ids: &[u32]) -> anyhow::Result<u32> {
        prefill(&mut self.core, slot, ids, &mut |_, _| ControlFlow::Continue(()))?;
        Ok(argmax(self.core.logits(0)))
    }

    /// One token for every conversation.
    fn step(&mut self, talks: &mut [Option<Talk<'_>>]) -> anyhow::Result<()> {
        let draft = self.core.info().draft;
        let mut open: Vec<(usize, &mut Talk<'_>)> =
            talks.iter_mut().enumerate().filter_map(|(i, t)| Some((i, t.as_mut()?))).collect();
        for (slot, talk) in open.iter_mut().filter(|(_, t)| draft && t.case.drafts) {
            talk.guess = Some(argmax(self.core.draft(*slot, talk.token)?));
        }
        let tokens: Vec<[u32; 1]> = open.iter().map(|(_, t)| [t.token]).collect();
        let feeds: Vec<Feed<'_>> = open
            .iter()
            .zip(&tokens)
            .map(|((slot, _), tokens)| Feed { slot: *slot, tokens, wanted: Wanted::Last(1) })
            .collect();
        if feeds.is_empty() {
            return Ok(());
        }
        self.core.feed(&feeds)?;
        self.core.commit(&vec![1; feeds.len()])?;
        for (i, (_, talk)) in open.iter_mut().enumerate() {
            talk.token = argmax(self.core.logits(i));
        }
        Ok(())
    }

    /// A request's tokens, and how its answer is to be parsed.
    fn prompt(&self, request: &Value) -> anyhow::Result<(Vec<u32>, ParserOptions)> {
        ask::prompt(&self.tokenizer, self.format, request)
    }
}

impl Talk<'_> {
    /// Takes the chosen token into the answer; true when the answer is over.
    fn advance(&mut self, eos: u32) -> anyhow::Result<bool> {
        if let Some(guess) = self.guess.take() {
            self.answer.drafted += 1;
            self.answer.accepted += usize::from(guess == self.token);
        }
        self.answer.stopped = self.token == eos;
        let over = self.answer.stopped || self.n_tokens == ANSWER_TOKENS;
        let events = if over {
            self.parser.finish(if self.answer.stopped { Finish::Stop } else { Finish::Length })?
        } else {
            self.n_tokens += 1;
            self.parser.push(self.token)?
        };
        events.iter().for_each(|event| self.answer.reply.push(event));
        Ok(over)
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "first token {:.2} s after the file was opened; decode {:.0} tokens/s, {} threads",
            self.first_token_seconds, self.decode_tokens_per_second, self.threads
        )
    }
}
