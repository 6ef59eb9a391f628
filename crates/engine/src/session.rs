//! What the runtime, the server and the commands see: no tensors, no generics.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backend::SendOps;

use crate::core::{Core, Feed, Wanted};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::slots::ANCHOR_EVERY;

/// What a resume found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Tokens that agree with something held.
    pub matched: usize,
    /// Tokens the slot holds now; the rest must be fed.
    pub resumed: usize,
    /// What is held in the place of the first token that does not agree, if anything is.
    pub instead: Option<u32>,
}

/// Sizes that callers need.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The backend's name.
    pub backend: &'static str,
    /// Vocabulary.
    pub n_vocab: usize,
    /// Sizes given at the start.
    pub options: Options,
    /// Whether drafting is possible.
    pub draft: bool,
    /// Whether a token that is asked for costs less than its logits ([`Wanted::Token`]).
    pub samples: bool,
}

/// A loaded model with its sequences.
pub trait Engine: Send {
    /// Sizes.
    fn info(&self) -> Info;
    /// Committed tokens of a slot.
    fn tokens(&self, slot: usize) -> &[u32];
    /// See [`Core::feed`].
    ///
    /// # Errors
    /// As there.
    fn feed(&mut self, feeds: &[Feed<'_>]) -> Result<()>;
    /// A flag that abandons a chunk in mid-step: while it is set, feeding more than a few tokens
    /// fails with [`Error::Stopped`], and nothing has changed. Devices on which no step takes long
    /// look at it between steps only.
    fn watch(&mut self, stop: Arc<AtomicBool>);
    /// See [`Core::logits`].
    fn logits(&self, i: usize) -> &[f32];
    /// See [`Core::chosen`].
    fn chosen(&self, i: usize) -> u32;
    /// See [`Core::commit`].
    ///
    /// # Errors
    /// As there.
    fn commit(&mut self, accepted: &[u32]) -> Result<()>;
    /// See [`Core::discard`].
    fn discard(&mut self);
    /// See [`Core::resume`].
    ///
    /// # Errors
    /// As there.
    fn resume(&mut self, slot: usize, tokens: &[u32]) -> Result<Reuse>;
    /// See [`Core::fill`].
    ///
    /// # Errors
    /// As there.
    fn fill(&mut self, slot: usize, n: usize, token: u32) -> Result<()>;
    /// See [`Core::release`].
    fn release(&mut self, slot: usize);
    /// See [`Core::anchor`].
    ///
    /// # Errors
    /// As there.
    fn anchor(&mut self, slot: usize) -> Result<()>;
    /// See [`Core::fork`].
    ///
    /// # Errors
    /// As there.
    fn fork(&mut self, from: usize, to: usize) -> Result<()>;
    /// See [`Core::draft`].
    ///
    /// # Errors
    /// As there.
    fn draft(&mut self, slot: usize, token: u32) -> Result<&[f32]>;
    /// See [`Core::save`].
    ///
    /// # Errors
    /// As there.
    fn save(&mut self, slot: usize, out: &mut dyn Write) -> Result<()>;
    /// See [`Core::load`].
    ///
    /// # Errors
    /// As there.
    fn load(&mut self, slot: usize, input: &mut dyn Read) -> Result<()>;
    /// KV pages that could be taken now; what admission counts with.
    fn available_pages(&self) -> usize;
}

impl<B: SendOps> Engine for Core<B> {
    fn info(&self) -> Info {
        Info {
            backend: self.be.name(),
            n_vocab: self.config.n_vocab,
            options: self.options,
            draft: self.mtp.is_some(),
            samples: self.be.samples(),
        }
    }

    fn tokens(&self, slot: usize) -> &[u32] {
        &self.slots[slot].tokens
    }

    fn feed(&mut self, feeds: &[Feed<'_>]) -> Result<()> {
        self.feed(feeds)
    }

    fn watch(&mut self, stop: Arc<AtomicBool>) {
        self.stop = Some(stop);
    }

    fn logits(&self, i: usize) -> &[f32] {
        self.logits(i)
    }

    fn chosen(&self, i: usize) -> u32 {
        self.chosen(i)
    }

    fn commit(&mut self, accepted: &[u32]) -> Result<()> {
        self.commit(accepted)
    }

    fn discard(&mut self) {
        self.discard();
    }

    fn resume(&mut self, slot: usize, tokens: &[u32]) -> Result<Reuse> {
        self.resume(slot, tokens)
    }

    fn fill(&mut self, slot: usize, n: usize, token: u32) -> Result<()> {
        self.fill(slot, n, token)
    }

    fn release(&mut self, slot: usize) {
        self.release(slot);
    }

    fn anchor(&mut self, slot: usize) -> Result<()> {
        self.anchor(slot)
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        self.fork(from, to)
    }

    fn draft(&mut self, slot: usize, token: u32) -> Result<&[f32]> {
        self.draft(slot, token)
    }

    fn save(&mut self, slot: usize, out: &mut dyn Write) -> Result<()> {
        self.save(slot, out)
    }

    fn load(&mut self, slot: usize, input: &mut dyn Read) -> Result<()> {
        self.load(slot, input)
    }

    fn available_pages(&self) -> usize {
        self.cache.available_pages()
    }
}

/// How a prefill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// What was reused.
    pub reuse: Reuse,
    /// Tokens computed.
    pub computed: usize,
    /// Whether the caller stopped it; what was computed is kept.
    pub stopped: bool,
}

/// Makes `slot` hold `tokens`, reusing what can be reused, and leaves logits of the last token and
/// an anchor. `progress` is told (tokens held, tokens wanted) after every chunk and may stop.
///
/// # Errors
/// An empty prompt, or as [`Core::feed`].
pub fn prefill(
    engine: &mut dyn Engine,
    slot: usize,
    tokens: &[u32],
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Prefill> {
    if tokens.is_empty() {
        let (expected, found) = ("at least one token".to_owned(), "none".to_owned());
        return Err(Error::Option { option: "prompt", expected, found });
    }
    let context = engine.info().options.context;
    if tokens.len() > context {
        return Err(Error::Context { context, wanted: tokens.len() });
    }
    let reuse = engine.resume(slot, tokens)?;
    let chunk_max = engine.info().options.step_rows;
    let mut at = reuse.resumed;
    while at < tokens.len() {
        if progress(at, tokens.len()).is_break() {
            return Ok(Prefill { reuse, computed: at - reuse.resumed, stopped: true });
        }
        // Chunks end where an anchor is due; how a prompt is cut changes no bit.
        let next_anchor = (at / ANCHOR_EVERY + 1) * ANCHOR_EVERY;
        let end = (at + chunk_max).min(next_anchor).min(tokens.len());
        let wanted = if end == tokens.len() { Wanted::Last(1) } else { Wanted::Nothing };
        match engine.feed(&[Feed { slot, tokens: &tokens[at..end], wanted }]) {
            Err(Error::Stopped) => {
                return Ok(Prefill { reuse, computed: at - reuse.resumed, stopped: true });
            }
            fed => fed?,
        }
        engine.commit(&[(end - at) as u32])?;
        at = end;
    }
    engine.anchor(slot)?;
    let _ = progress(at, tokens.len());
    Ok(Prefill { reuse, computed: at - reuse.resumed, stopped: false })
}
