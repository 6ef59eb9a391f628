//! A conversation with an engine: one answer at a time.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use chat::{Conversation, EOS, Event, Finish, Reply, Thinking, Turn};
use engine::{Feed, Sampler, Sampling, Wanted, prefill};

use crate::open::Loaded;
use crate::term::progress::Figures;

/// A loaded model and what was said.
pub(super) struct Chat {
    pub(super) loaded: Loaded,
    pub(super) conversation: Conversation,
    pub(super) sampling: Sampling,
    /// Most tokens of an answer.
    pub(super) answer_max: usize,
    sampler: Sampler,
    /// The last prompt with the logits at its end: answering it again reads nothing.
    prompt_end: Option<(Vec<u32>, Vec<f32>)>,
}

/// Where an answer goes while it is made.
pub(super) trait Listener {
    /// So much of the prompt has been read.
    fn reading(&mut self, done: usize, total: usize);
    /// The answer begins.
    fn begins(&mut self);
    /// More of the answer.
    ///
    /// # Errors
    /// What takes it in is gone; generation stops.
    fn event(&mut self, event: &Event) -> anyhow::Result<()>;
    /// Whether somebody wants it to stop.
    fn stopped(&self) -> bool {
        self.stop().load(Ordering::Relaxed)
    }
    /// The flag behind that.
    fn stop(&self) -> Arc<AtomicBool>;
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    /// The model was done.
    Stop,
    /// The limit of tokens, or the end of the context.
    Length,
    /// Somebody stopped it, perhaps before it began.
    Cancelled,
}

/// An answer and what it took.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) ended: Ended,
    pub(super) figures: Figures,
}

impl Chat {
    /// A conversation in which nothing has been said.
    pub(super) fn new(loaded: Loaded, thinking: Thinking, system: Option<String>) -> Self {
        let sampler = Sampler::new(loaded.config.n_vocab);
        let conversation = Conversation::new(loaded.format.0, thinking, system);
        Self {
            loaded,
            conversation,
            sampling: Sampling::GREEDY,
            answer_max: usize::MAX,
            sampler,
            prompt_end: None,
        }
    }

    /// Tokens that the engine holds, and how many it can hold.
    pub(super) fn filled(&self) -> (usize, usize) {
        (self.loaded.engine.tokens(0).len(), self.loaded.engine.info().options.context)
    }

    /// Replaces the engine, keeping what was said.
    pub(super) fn replace(&mut self, loaded: Loaded) {
        self.loaded = loaded;
        self.prompt_end = None;
    }

    /// Takes back the last answer, if there is one, and gives the message that it answered.
    pub(super) fn take_back(&mut self) -> Option<String> {
        loop {
            match self.conversation.pop()? {
                Turn::User(text) => return Some(text),
                Turn::Assistant { .. } => {}
            }
        }
    }

    /// Answers a message and remembers both. If it is stopped before the answer begins, the
    /// message is forgotten; what was read of it stays in the engine.
    ///
    /// # Errors
    /// The context is too small, the engine failed, or the listener is gone. The message is
    /// then forgotten.
    pub(super) fn answer(
        &mut self,
        message: &str,
        listener: &mut dyn Listener,
    ) -> anyhow::Result<Answer> {
        self.conversation.push_user(message);
        let mut figures = Figures::default();
        let begun = self.read_prompt(listener, &mut figures);
        if !matches!(begun, Ok(true)) {
            self.conversation.pop();
            begun?;
            return Ok(Answer { reply: Reply::default(), ended: Ended::Cancelled, figures });
        }
        let start = Instant::now();
        let generated = self.generate(listener, &mut figures);
        figures.generation_seconds = start.elapsed().as_secs_f64();
        let (reply, sampled, ended) = match generated {
            Ok(generated) => generated,
            Err(error) => {
                self.conversation.pop();
                return Err(error);
            }
        };
        self.loaded.engine.anchor(0)?;
        self.conversation.push_reply(reply.clone(), sampled);
        Ok(Answer { reply, ended, figures })
    }

    /// Makes the engine hold the prompt. `false` if somebody stopped it.
    fn read_prompt(
        &mut self,
        listener: &mut dyn Listener,
        figures: &mut Figures,
    ) -> anyhow::Result<bool> {
        let ids = self.conversation.encode(&self.loaded.tokenizer)?;
        figures.prompt_tokens = ids.len();
        let engine = &mut *self.loaded.engine;
        if self.prompt_end.as_ref().is_some_and(|(known, _)| *known == ids) {
            // One more token than the prompt has, so that its end may be resumed.
            let longer: Vec<u32> = ids.iter().copied().chain([0]).collect();
            if engine.resume(0, &longer)?.resumed == ids.len() {
                figures.reused_tokens = ids.len();
                return Ok(true);
            }
        }
        self.prompt_end = None;
        engine.watch(listener.stop());
        let start = Instant::now();
        let mut progress = |done, total| {
            listener.reading(done, total);
            if listener.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let read = prefill(engine, 0, &ids, &mut progress)?;
        figures.prefill_seconds = start.elapsed().as_secs_f64();
        figures.reused_tokens = read.reuse.resumed;
        figures.prompt_tokens = read.reuse.resumed + read.computed;
        if read.stopped {
            return Ok(false);
        }
        self.prompt_end = Some((ids, engine.logits(0).to_vec()));
        Ok(true)
    }

    /// Samples until something ends the answer.
    fn generate(
        &mut self,
        listener: &mut dyn Listener,
        figures: &mut Figures,
    ) -> anyhow::Result<(Reply, Vec<u32>, Ended)> {
        let eos = self.loaded.tokenizer.require_special(EOS)?;
        let mut parser = self.conversation.parser(self.loaded.tokenizer.clone(), Vec::new());
        let (mut reply, mut sampled) = (Reply::default(), Vec::new());
        let engine = &mut *self.loaded.engine;
        let info = engine.info();
        let context = info.options.context;
        // The device chooses where nothing but the logits decides.
        let chooses = info.samples && self.sampling.repeat_penalty == 1.0;
        listener.begins();
        let ended = loop {
            let held = engine.tokens(0);
            let first = self.prompt_end.as_ref().filter(|_| sampled.is_empty());
            let token = match first {
                None if chooses => engine.chosen(0),
                first => {
                    let logits = first.map_or_else(|| engine.logits(0), |(_, logits)| logits);
                    self.sampler.sample(logits, &self.sampling, held, held.len())
                }
            };
            let full = held.len() + 1 > context;
            if token == eos {
                break Ended::Stop;
            }
            sampled.push(token);
            figures.generated_tokens = sampled.len();
            tell(parser.push(token)?, &mut reply, listener)?;
            if parser.is_finished() {
                break Ended::Stop;
            }
            if full || sampled.len() >= self.answer_max {
                break Ended::Length;
            }
            if listener.stopped() {
                break Ended::Cancelled;
            }
            let next = self.sampling.draw(held.len() + 1);
            let wanted = if chooses { Wanted::Token(next) } else { Wanted::Last(1) };
            engine.feed(&[Feed { slot: 0, tokens: &[token], wanted }])?;
            engine.commit(&[1])?;
        };
        let finish = match ended {
            Ended::Stop => Finish::Stop,
            Ended::Length => Finish::Length,
            Ended::Cancelled => Finish::Cancelled,
        };
        tell(parser.finish(finish)?, &mut reply, listener)?;
        Ok((reply, sampled, ended))
    }
}

fn tell(events: Vec<Event>, reply: &mut Reply, listener: &mut dyn Listener) -> anyhow::Result<()> {
    for event in events {
        reply.push(&event);
        listener.event(&event)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
