//! The loaded model on one backend: feed, read logits, commit.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backend::{Draw, HeadWeights, LayerWeights, Ops, Step};
use gguf::Gguf;
use kvcache::{Cache, PageKey};
use model::{Config, MtpTensors, bind};

use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::layer::layers;
use crate::load;
use crate::mtp::Mtp;
use crate::options::Options;
use crate::plan;
use crate::slots::Slot;
use crate::snapshot::NUMERICS_VERSION;

/// A model on a backend, with the KV of all its sequences.
pub struct Core<B: Ops> {
    pub(crate) be: B,
    pub(crate) config: Config,
    pub(crate) options: Options,
    pub(crate) weights: Weights<B>,
    pub(crate) mtp: Option<Mtp<B>>,
    pub(crate) kv: B::Kv,
    pub(crate) acts: Activations<B::Buf, B::IdBuf>,
    pub(crate) cache: Cache,
    pub(crate) slots: Vec<Slot>,
    pub(crate) step: Step,
    /// The rows of `step` that want something, where the others are not needed to the end.
    wanted: Step,
    pub(crate) logits: Vec<f32>,
    /// Rows of the last feed whose tokens were chosen, by their place among those that want something.
    draws: Vec<(u32, Draw)>,
    chosen: Vec<u32>,
    /// Room for the state of one sequence on its way to or from an anchor.
    pub(crate) state: Vec<u8>,
    pub(crate) fingerprint: [u8; 32],
    /// Set from outside to abandon a chunk.
    pub(crate) stop: Option<Arc<AtomicBool>>,
    /// Whether `step` holds staged rows that were neither committed nor discarded.
    staged: bool,
}

/// Weights of the main model.
pub(crate) struct Weights<B: Ops> {
    pub(crate) embedding: B::Weight,
    pub(crate) layers: Vec<LayerWeights<B>>,
    pub(crate) head: HeadWeights<B>,
    pub(crate) output: B::Weight,
}

/// Which rows of a feed want logits, or a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// None.
    Nothing,
    /// The last `n` rows, or all when there are fewer.
    Last(usize),
    /// The last row wants no logits but the token that this draw gives.
    Token(Draw),
}

/// The next tokens of one slot.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// Which sequence.
    pub slot: usize,
    /// Tokens that follow what the slot holds.
    pub tokens: &'a [u32],
    /// Logits wanted.
    pub wanted: Wanted,
}

impl Feed<'_> {
    /// Rows that want logits, or a token.
    pub fn n_wanted(&self) -> usize {
        match self.wanted {
            Wanted::Nothing => 0,
            Wanted::Last(n) => n.min(self.tokens.len()),
            Wanted::Token(_) => 1.min(self.tokens.len()),
        }
    }
}

impl<B: Ops> Core<B> {
    /// Loads a model: binds, checks and loads every tensor, allocates everything.
    ///
    /// # Errors
    /// An option out of range, a file that is no such model, memory that cannot be had.
    pub fn open(
        be: B,
        gguf: &Gguf,
        config: Config,
        mtp: Option<&MtpTensors>,
        options: Options,
    ) -> Result<Self> {
        Self::open_watched(be, gguf, config, mtp, options, &mut |_| {})
    }

    /// As [`Core::open`]; `loaded` is told now and then how many bytes of the file's tensors are loaded.
    ///
    /// # Errors
    /// As there.
    pub fn open_watched(
        mut be: B,
        gguf: &Gguf,
        config: Config,
        mtp: Option<&MtpTensors>,
        options: Options,
        loaded: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        options.check(&config)?;
        let shape = options.shape(&config);
        be.prepare(&shape)?;
        let weights = Weights::load(&mut be, gguf, &config, loaded)?;
        let mtp = match (options.draft, mtp) {
            (true, Some(tensors)) => Some(Mtp::load(&mut be, tensors, &shape, options.n_slots)?),
            (false, _) => None,
            (true, None) => return Err(missing_draft()),
        };
        let kv = be.alloc_kv(&options.kv_layout(&config))?;
        let acts = Activations::alloc(&mut be, &shape)?;
        let fingerprint = gguf.fingerprint();
        be.ready()?;
        let mut core = Self {
            cache: cache(&fingerprint, &config, &options),
            slots: (0..options.n_slots).map(|_| Slot::new(&options)).collect(),
            step: empty_step(&options, options.step_rows),
            wanted: empty_step(&options, options.logit_rows),
            logits: vec![0.0; options.logit_rows * config.n_vocab],
            draws: Vec::with_capacity(options.logit_rows),
            chosen: vec![0; options.logit_rows],
            state: Vec::with_capacity(plan::state_bytes_max(&config, &options)),
            be,
            config,
            options,
            weights,
            mtp,
            kv,
            acts,
            fingerprint,
            stop: None,
            staged: false,
        };
        core.rehearse()?;
        Ok(core)
    }

    /// Computes the steps that the backend asks for, and forgets them.
    fn rehearse(&mut self) -> Result<()> {
        for rows in self.be.rehearsal() {
            let tokens = vec![0; (*rows).min(self.options.step_rows).min(self.options.context)];
            self.feed(&[Feed { slot: 0, tokens: &tokens, wanted: Wanted::Last(1) }])?;
            self.discard();
            self.release(0);
        }
        Ok(())
    }

    /// The model's constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The backend, for traces and counters.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.be
    }

    /// Computes the next tokens of some slots into staging. An earlier feed that was not committed
    /// is forgotten.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, sequences past their context, steps larger than planned, no
    /// free page, or the device. Nothing changes then.
    pub fn feed(&mut self, feeds: &[Feed<'_>]) -> Result<()> {
        self.discard();
        self.check(feeds)?;
        for feed in feeds {
            self.reserve(feed.slot, feed.tokens.len())?;
        }
        self.step.clear();
        self.draws.clear();
        for feed in feeds {
            if let (Wanted::Token(draw), 1) = (feed.wanted, feed.n_wanted()) {
                self.draws.push((self.step.logit_rows.len() as u32, draw));
            }
            let slot = &self.slots[feed.slot];
            let committed = slot.tokens.len() as u32;
            let first = self.step.rows.len();
            self.step.push_span(feed.slot as u32, committed, feed.tokens, &slot.pages);
            let end = first + feed.tokens.len();
            self.step.logit_rows.extend((end - feed.n_wanted()..end).map(|r| r as u32));
        }
        if self.step.rows.is_empty() {
            return Ok(());
        }
        self.compute()?;
        self.staged = true;
        Ok(())
    }

    /// Logits of the `i`-th row that wanted something in the last feed, `[vocab]`.
    ///
    /// # Panics
    /// When the feed wanted fewer, or a token in this place.
    pub fn logits(&self, i: usize) -> &[f32] {
        assert!(i < self.step.logit_rows.len(), "the feed wanted {}", self.step.logit_rows.len());
        assert!(self.draw_at(i).is_err(), "the feed wanted a token");
        &self.logits[i * self.config.n_vocab..][..self.config.n_vocab]
    }

    /// The token of the `i`-th row that wanted something in the last feed.
    ///
    /// # Panics
    /// When the feed wanted no token in this place.
    pub fn chosen(&self, i: usize) -> u32 {
        // Asking for what was not wanted is a programmer's error.
        self.chosen[self.draw_at(i).unwrap_or_else(|_| panic!("the feed wanted no token"))]
    }

    fn draw_at(&self, i: usize) -> std::result::Result<usize, usize> {
        self.draws.binary_search_by_key(&i, |(row, _)| *row as usize)
    }

    /// Rows of the last feed that have logits.
    pub fn n_logits(&self) -> usize {
        self.step.logit_rows.len()
    }

    /// Appends the first `accepted[i]` tokens of the `i`-th feed to its sequence; the rest leaves
    /// no trace.
    ///
    /// # Errors
    /// The device is lost.
    ///
    /// # Panics
    /// When nothing is staged or the number of feeds differs: programmer's errors.
    pub fn commit(&mut self, accepted: &[u32]) -> Result<()> {
        if !self.staged && accepted.iter().all(|n| *n == 0) {
            return Ok(());
        }
        assert!(self.staged, "a feed comes before its commit");
        assert_eq!(accepted.len(), self.step.spans.len(), "one count per feed");
        self.staged = false;
        let n_layers = self.config.n_layers();
        self.be.commit(&mut self.kv, &self.step, 0..n_layers, accepted)?;
        if let Some(mtp) = &mut self.mtp {
            mtp.commit(&mut self.be, &mut self.kv, &self.acts.streams, &self.step, accepted)?;
        }
        for i in 0..self.step.spans.len() {
            self.append(i, accepted[i] as usize)?;
        }
        Ok(())
    }

    /// Commits everything that was fed.
    ///
    /// # Errors
    /// As [`Core::commit`].
    pub fn commit_all(&mut self) -> Result<()> {
        let rows: Vec<u32> = self.step.spans.iter().map(|s| s.n_rows).collect();
        if self.staged { self.commit(&rows) } else { Ok(()) }
    }

    /// Forgets what was fed and not committed.
    pub fn discard(&mut self) {
        if std::mem::take(&mut self.staged) {
            self.step.clear();
        }
    }

    /// Logits that the MTP block gives for the token after `token`, where `token` follows what the
    /// slot holds and is not yet fed. Anything staged is forgotten; nothing is committed.
    ///
    /// # Errors
    /// No draft block was loaded, the slot is empty, or the device.
    pub fn draft(&mut self, slot: usize, token: u32) -> Result<&[f32]> {
        self.discard();
        let len = self.slots[slot].tokens.len() as u32;
        let feed = Feed { slot, tokens: &[token], wanted: Wanted::Nothing };
        self.check_tokens(&feed)?;
        let Some(mtp) = self.mtp.as_mut().filter(|_| len > 0) else { return Err(missing_draft()) };
        let logits = &mut self.logits[..self.config.n_vocab];
        let (be, acts, kv) = (&mut self.be, &mut self.acts, &mut self.kv);
        mtp.draft(be, &self.config, &self.weights, kv, acts, (slot, len, token), logits)?;
        Ok(logits)
    }

    fn compute(&mut self) -> Result<()> {
        let (be, acts, step) = (&mut self.be, &mut self.acts, &self.step);
        be.begin(step)?;
        be.embed(&mut acts.streams, &self.weights.embedding, step)?;
        // A draft block follows all rows to the end.
        let narrows = be.narrows() && self.mtp.is_none() && step.logit_rows.len() < step.rows.len();
        let wanted = narrows.then(|| {
            self.wanted.keep_wanted(step);
            &self.wanted
        });
        let (config, stop) = (&self.config, self.stop.as_deref());
        let (weights, kv) = (&self.weights.layers, &mut self.kv);
        layers(be, config, weights, (0, stop), kv, acts, (step, wanted))?;
        let n_logits = step.logit_rows.len();
        if n_logits > 0 {
            let (head, output) = (&self.weights.head, &self.weights.output);
            be.head(&mut acts.logits, &acts.streams, head, output, wanted.unwrap_or(step))?;
        }
        be.submit()?;
        // Only what is wanted comes to the host.
        let mut first = 0;
        for end in self.draws.iter().map(|(row, _)| *row as usize).chain([n_logits]) {
            if first < end {
                let n_vocab = self.config.n_vocab;
                be.read(&acts.logits, first, &mut self.logits[first * n_vocab..end * n_vocab])?;
            }
            first = end + 1;
        }
        if !self.draws.is_empty() {
            be.sample(&acts.logits, &self.draws, &mut self.chosen)?;
        }
        if let Some(mtp) = &mut self.mtp {
            mtp.follow(be, &self.config, &self.weights, &mut self.kv, acts, step)?;
        }
        Ok(())
    }

    fn check(&self, feeds: &[Feed<'_>]) -> Result<()> {
        let limit = |what, max: usize, found: usize| {
            if found <= max { Ok(()) } else { Err(Error::Step { what, max, found }) }
        };
        limit("slots", self.options.n_slots, feeds.len())?;
        limit("rows", self.options.step_rows, feeds.iter().map(|f| f.tokens.len()).sum())?;
        limit("logit rows", self.options.logit_rows, feeds.iter().map(Feed::n_wanted).sum())?;
        for (i, feed) in feeds.iter().enumerate() {
            limit("slot index", self.options.n_slots - 1, feed.slot)?;
            let again = feeds[..i].iter().any(|f| f.slot == feed.slot);
            limit("feeds of one slot", 1, 1 + usize::from(again))?;
            self.check_tokens(feed)?;
        }
        Ok(())
    }

    fn check_tokens(&self, feed: &Feed<'_>) -> Result<()> {
        let held = self.slots[feed.slot].tokens.len();
        let wanted = held + feed.tokens.len();
        if wanted > self.options.context {
            return Err(Error::Context { context: self.options.context, wanted });
        }
        let n_vocab = self.config.n_vocab;
        match feed.tokens.iter().position(|&t| t as usize >= n_vocab) {
            Some(i) => Err(Error::Token { token: feed.tokens[i], pos: held + i, n_vocab }),
            None => Ok(()),
        }
    }
}

impl<B: Ops> Weights<B> {
    fn load(be: &mut B, gguf: &Gguf, config: &Config, loaded: &mut dyn FnMut(u64)) -> Result<Self> {
        let tensors = bind(gguf, config)?;
        let total: u64 = gguf.tensors().iter().map(|t| t.n_bytes).sum();
        let ends = (tensors.embedding.data.n_bytes() + tensors.head.output.data.n_bytes()) as u64;
        let n_layers = tensors.layers.len().max(1) as u64;
        let clamp = |i: usize| (config.expert_clamp[i], config.shared_clamp[i]);
        let mut layers = Vec::with_capacity(tensors.layers.len());
        for (i, layer) in tensors.layers.into_iter().enumerate() {
            // Dropped here, so that weights that were made only to be uploaded are freed.
            layers.push(load::layer(be, &layer, config, clamp(i))?);
            loaded((total - ends) * (i as u64 + 1) / n_layers);
        }
        let weights = Self {
            embedding: be.load(&tensors.embedding)?,
            layers,
            head: load::head(be, &tensors.head.hc, &tensors.head.norm)?,
            output: be.load(&tensors.head.output)?,
        };
        loaded(total);
        Ok(weights)
    }
}

fn cache(fingerprint: &[u8; 32], config: &Config, options: &Options) -> Cache {
    let root = PageKey::root(fingerprint, options.rows.name(), NUMERICS_VERSION);
    Cache::new(root, options.n_pages(), plan::anchor_budget(config, options))
}

fn empty_step(options: &Options, rows: usize) -> Step {
    let pages = options.n_slots * options.pages_per_slot();
    Step::with_capacity(rows, options.n_slots, pages, options.logit_rows)
}

fn missing_draft() -> Error {
    Error::Option {
        option: "draft",
        expected: "a file with an MTP block".to_owned(),
        found: "none".to_owned(),
    }
}
