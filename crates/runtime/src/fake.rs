//! An engine without a model: for simulations, for tests of everything above the engine, and for
//! measuring what everything above the engine costs.
//!
//! Its logits are a function of the tokens before them, given at the start. It keeps the books of
//! the real one: staged and committed tokens, a pool of pages, anchors to resume at, limits of a
//! step; and it fails on request.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::Duration;

use engine::{
    DeviceError, Engine, Error, Feed, Info, Options, Result, Reuse, RowFormat, Sampler, Wanted,
};
use kvcache::PAGE_TOKENS;

/// Writes the logits that follow a sequence of tokens. `logits` is zero before.
pub type Model = Box<dyn Fn(&[u32], &mut [f32]) + Send>;

/// Says for every feed whether it fails, by its number and its tokens.
pub type Faults = Box<dyn FnMut(u64, &[Feed<'_>]) -> Option<String> + Send>;

/// See the module.
pub struct FakeEngine {
    info: Info,
    n_pages: usize,
    model: Model,
    faults: Faults,
    /// The feed at which the device is lost.
    lost_at: u64,
    step_time: Duration,
    slots: Vec<Vec<u32>>,
    staged: Vec<(usize, Vec<u32>)>,
    logits: Vec<Vec<f32>>,
    /// Tokens instead of logits, where those were wanted.
    chosen: Vec<Option<u32>>,
    anchors: BTreeSet<Vec<u32>>,
    n_feeds: u64,
}

impl FakeEngine {
    /// An engine with `n_slots` sequences of `context` tokens, a pool that holds all of them, and
    /// steps of up to 64 rows.
    pub fn new(n_vocab: usize, n_slots: usize, context: usize, model: Model) -> Self {
        let options = Options {
            n_slots,
            context,
            pool_tokens: n_slots * context,
            step_rows: 64.max(2 * n_slots),
            logit_rows: n_slots,
            rows: RowFormat::Model,
            draft: false,
            anchor_bytes: 0,
        };
        Self {
            n_pages: options.n_pages(),
            info: Info { backend: "fake", n_vocab, options, draft: false, samples: false },
            model,
            faults: Box::new(|_, _| None),
            lost_at: u64::MAX,
            step_time: Duration::ZERO,
            slots: vec![Vec::new(); n_slots],
            staged: Vec::new(),
            logits: Vec::new(),
            chosen: Vec::new(),
            anchors: BTreeSet::new(),
            n_feeds: 0,
        }
    }

    /// With a pool of this many pages.
    #[must_use]
    pub fn with_pages(mut self, n_pages: usize) -> Self {
        self.n_pages = n_pages;
        self
    }

    /// With steps of at most this many rows, of which so many may want logits.
    #[must_use]
    pub fn with_step(mut self, step_rows: usize, logit_rows: usize) -> Self {
        self.info.options.step_rows = step_rows;
        self.info.options.logit_rows = logit_rows;
        self
    }

    /// As on a device that chooses tokens where logits lie.
    #[must_use]
    pub fn with_sampling(mut self) -> Self {
        self.info.samples = true;
        self
    }

    /// With steps that take this long.
    #[must_use]
    pub fn with_step_time(mut self, step_time: Duration) -> Self {
        self.step_time = step_time;
        self
    }

    /// With failures.
    #[must_use]
    pub fn with_faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// With a device that is lost at the `n`-th feed, counted from 1.
    #[must_use]
    pub fn with_loss(mut self, n: u64) -> Self {
        self.lost_at = n;
        self
    }

    /// What the model says after `tokens`.
    pub fn logits_after(&self, tokens: &[u32]) -> Vec<f32> {
        let mut logits = vec![0.0; self.info.n_vocab];
        (self.model)(tokens, &mut logits);
        logits
    }

    fn used_pages(&self, extra: &[Feed<'_>]) -> usize {
        let more = |slot| extra.iter().find(|f| f.slot == slot).map_or(0, |f| f.tokens.len());
        let pages =
            |(slot, held): (usize, &Vec<u32>)| (held.len() + more(slot)).div_ceil(PAGE_TOKENS);
        self.slots.iter().enumerate().map(pages).sum()
    }

    fn check(&self, feeds: &[Feed<'_>]) -> Result<()> {
        let Options { step_rows, logit_rows, context, .. } = self.info.options;
        let limit = |what, max, found| {
            if found <= max { Ok(()) } else { Err(Error::Step { what, max, found }) }
        };
        limit("rows", step_rows, feeds.iter().map(|f| f.tokens.len()).sum())?;
        limit("logit rows", logit_rows, feeds.iter().map(Feed::n_wanted).sum())?;
        for (i, feed) in feeds.iter().enumerate() {
            let is_again = feeds[..i].iter().any(|f| f.slot == feed.slot);
            limit("feeds of one slot", 1, 1 + usize::from(is_again))?;
            let wanted = self.slots[feed.slot].len() + feed.tokens.len();
            if wanted > context {
                return Err(Error::Context { context, wanted });
            }
        }
        if self.used_pages(feeds) > self.n_pages {
            let tokens = self.n_pages * PAGE_TOKENS;
            return Err(Error::Pages { n_pages: self.n_pages, tokens });
        }
        Ok(())
    }
}

impl Engine for FakeEngine {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn tokens(&self, slot: usize) -> &[u32] {
        &self.slots[slot]
    }

    fn feed(&mut self, feeds: &[Feed<'_>]) -> Result<()> {
        self.discard();
        self.check(feeds)?;
        self.n_feeds += 1;
        if self.n_feeds >= self.lost_at {
            let what = "the device does not answer".to_owned();
            return Err(Error::Backend(DeviceError::Lost { device: "fake", what }));
        }
        if let Some(what) = (self.faults)(self.n_feeds, feeds) {
            return Err(Error::Io(std::io::Error::other(what)));
        }
        if !self.step_time.is_zero() {
            std::thread::sleep(self.step_time);
        }
        self.logits.clear();
        self.chosen.clear();
        for feed in feeds {
            self.staged.push((feed.slot, feed.tokens.to_vec()));
            let n_wanted = feed.n_wanted();
            if n_wanted > 0 {
                let sequence = [&self.slots[feed.slot], feed.tokens].concat();
                for end in sequence.len() + 1 - n_wanted..=sequence.len() {
                    let logits = self.logits_after(&sequence[..end]);
                    let (logits, token) = match feed.wanted {
                        Wanted::Token(draw) => {
                            let token = Sampler::new(logits.len()).draw(&logits, &draw);
                            (Vec::new(), Some(token))
                        }
                        _ => (logits, None),
                    };
                    self.logits.push(logits);
                    self.chosen.push(token);
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, _stop: std::sync::Arc<std::sync::atomic::AtomicBool>) {}

    fn logits(&self, i: usize) -> &[f32] {
        &self.logits[i]
    }

    fn chosen(&self, i: usize) -> u32 {
        self.chosen[i].unwrap_or_else(|| panic!("the feed wanted no token"))
    }

    fn commit(&mut self, accepted: &[u32]) -> Result<()> {
        assert_eq!(accepted.len(), self.staged.len(), "one count per feed");
        for ((slot, tokens), &n) in self.staged.drain(..).zip(accepted) {
            self.slots[slot].extend_from_slice(&tokens[..n as usize]);
        }
        Ok(())
    }

    fn discard(&mut self) {
        self.staged.clear();
    }

    fn resume(&mut self, slot: usize, tokens: &[u32]) -> Result<Reuse> {
        let limit = tokens.len().saturating_sub(1);
        let agrees = |held: &Vec<u32>| {
            let same = held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            (same, held.get(same).filter(|_| same < tokens.len()).copied())
        };
        let (matched, instead) = self.anchors.iter().map(agrees).max().unwrap_or((0, None));
        let usable = |held: &&Vec<u32>| held.len() <= limit && tokens.starts_with(held);
        let best = self.anchors.iter().filter(usable).max_by_key(|held| held.len());
        self.slots[slot] = best.cloned().unwrap_or_default();
        if self.used_pages(&[]) > self.n_pages {
            self.slots[slot].clear();
            let tokens = self.n_pages * PAGE_TOKENS;
            return Err(Error::Pages { n_pages: self.n_pages, tokens });
        }
        Ok(Reuse { matched, resumed: self.slots[slot].len(), instead })
    }

    fn fill(&mut self, slot: usize, n: usize, token: u32) -> Result<()> {
        self.release(slot);
        self.slots[slot].resize(n, token);
        Ok(())
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot].clear();
    }

    fn anchor(&mut self, slot: usize) -> Result<()> {
        if !self.slots[slot].is_empty() {
            self.anchors.insert(self.slots[slot].clone());
        }
        Ok(())
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        self.slots[to] = self.slots[from].clone();
        Ok(())
    }

    fn draft(&mut self, _: usize, _: u32) -> Result<&[f32]> {
        Err(refused("draft"))
    }

    fn save(&mut self, _: usize, _: &mut dyn Write) -> Result<()> {
        Err(refused("save"))
    }

    fn load(&mut self, _: usize, _: &mut dyn Read) -> Result<()> {
        Err(refused("load"))
    }

    fn available_pages(&self) -> usize {
        self.n_pages.saturating_sub(self.used_pages(&[]))
    }
}

fn refused(option: &'static str) -> Error {
    Error::Option { option, expected: "an engine with a model".into(), found: "fake".into() }
}
