//! Laws of the engine, as one random walk: whatever is fed, cut, batched, rejected, cancelled,
//! forked, saved, loaded or rewound, a sequence's next logits are those that a fresh engine gives
//! for the same tokens: the same bits, or, where a backend's kernels depend on the number of rows, as
//! near as is stated. Tokens are drawn, never chosen by a model, so that differences do not add up.

use std::collections::HashMap;

use backend::{Ops, SendOps};
use engine::{Core, Engine, Feed, Options, RowFormat, Wanted, argmax};
use testkit::oracle::Scheme;
use testkit::random::{self, Draw};

use crate::{Model, distance};

const SLOTS: usize = 3;
const CONTEXT: usize = 700;

/// One law.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// Numerics.
    pub rows: RowFormat,
    /// Rows of the largest step.
    pub step_rows: usize,
    /// How near logits must be, by the types of the model's file.
    pub agreement: fn(Scheme) -> Agreement,
}

/// What a row of logits must have in common with the truth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// Every bit.
    Bits,
    /// Not the bits. Both figures are shares of the true logits' spread, their standard deviation.
    Near {
        /// Largest root mean square of the differences.
        rms: f32,
        /// The best token is the same wherever the truth's best two are further apart.
        gap: f32,
    },
}

/// What a walk has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Rows of logits compared.
    pub rows: usize,
    /// Largest root mean square of differences in a row, as a share of the spread.
    pub rms: f32,
}

/// One engine under test and what its slots should hold.
struct Walk<B: Ops> {
    core: Core<B>,
    truth: Truth<B>,
    draw: Draw,
    /// Tokens each slot should hold.
    held: Vec<Vec<u32>>,
    saved: Option<(Vec<u8>, Vec<u32>)>,
    label: String,
    agreement: Agreement,
    step_rows: usize,
    seen: Seen,
}

/// A second engine that only ever reads whole prefixes from nothing.
struct Truth<B: Ops> {
    core: Core<B>,
    step_rows: usize,
    known: HashMap<Vec<u32>, Vec<f32>>,
}

impl<B: Ops> Truth<B> {
    /// Logits after `tokens`, computed token after token from an empty sequence. Sequences share
    /// prefixes, so the engine goes on where it can; it never resumes.
    fn logits(&mut self, tokens: &[u32]) -> &[f32] {
        if !self.known.contains_key(tokens) {
            self.core.release(0);
            let mut last = Vec::new();
            for part in tokens.chunks(self.step_rows) {
                self.core
                    .feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(1) }])
                    .expect("feeds");
                last = self.core.logits(0).to_vec();
                self.core.commit(&[part.len() as u32]).expect("commits");
            }
            self.known.insert(tokens.to_vec(), last);
        }
        &self.known[tokens]
    }
}

/// Walks `steps` random steps on the random model of `seed`. `make` gives a fresh backend; the one
/// under test and the one that knows the truth may differ in threads.
///
/// # Panics
/// When the law is broken; the message names the seed.
pub fn walk<B: SendOps>(seed: u64, steps: usize, law: Law, make: &dyn Fn(usize) -> B) -> Seen {
    let mut draw = Draw::new(seed ^ 0x1A35);
    let config = random::config(seed);
    // Block formats only where every row is made of whole blocks.
    let scheme = draw.one_of(&[Scheme::F32, Scheme::F16, Scheme::Q8_0, Scheme::Mxfp4]);
    let draft = draw.below(2) == 0;
    let model = Model::with_mtp(&config, scheme, draft);
    let options = |n_slots: usize| Options {
        n_slots,
        pool_tokens: n_slots * CONTEXT,
        logit_rows: law.step_rows,
        rows: law.rows,
        draft,
        anchor_bytes: 4 << 20,
        ..Options::single(CONTEXT, law.step_rows)
    };
    let mut walk = Walk {
        core: model.open(make(0), options(SLOTS)),
        truth: Truth {
            core: model.open(make(1), options(1)),
            step_rows: law.step_rows,
            known: HashMap::new(),
        },
        held: vec![Vec::new(); SLOTS],
        saved: None,
        label: format!("seed {seed}, {}, {scheme:?}, draft {draft}, {config:?}", law.rows.name()),
        agreement: (law.agreement)(scheme),
        step_rows: law.step_rows,
        seen: Seen::default(),
        draw,
    };
    // Most of the walk happens beyond the first page and the first windows.
    let n = walk.draw.below(CONTEXT * 3 / 4);
    let tokens = walk.tokens(n + 1);
    walk.read_from_cache(0, tokens);
    for _ in 0..steps {
        walk.step();
    }
    walk.seen
}

impl<B: SendOps> Walk<B> {
    fn step(&mut self) {
        match self.draw.below(10) {
            0..=3 => self.feed_some(),
            4 => self.cancel(),
            5 => self.rewind(),
            6 => self.fork(),
            7 => self.save(),
            8 => self.load(),
            _ => self.draft(),
        }
        for slot in 0..SLOTS {
            let held = Engine::tokens(&self.core, slot);
            assert_eq!(held, self.held[slot], "slot {slot}: {}", self.label);
        }
    }

    fn tokens(&mut self, n: usize) -> Vec<u32> {
        let vocab = self.core.config().n_vocab;
        (0..n).map(|_| self.draw.below(vocab) as u32).collect()
    }

    /// Feeds random chunks to a random set of slots, accepts a random part of each.
    fn feed_some(&mut self) {
        let mut chunks: Vec<(usize, Vec<u32>)> = Vec::new();
        let mut room = self.step_rows;
        for slot in 0..SLOTS {
            let most = room.min(CONTEXT - self.held[slot].len());
            if self.draw.below(3) > 0 && most > 0 {
                let most = if self.draw.below(2) == 0 { most } else { most.min(4) };
                let n = 1 + self.draw.below(most);
                room -= n;
                chunks.push((slot, self.tokens(n)));
            }
        }
        let feeds: Vec<Feed<'_>> = chunks
            .iter()
            .map(|(slot, tokens)| Feed { slot: *slot, tokens, wanted: Wanted::Last(1) })
            .collect();
        self.core.feed(&feeds).expect("feeds");
        for (i, (slot, tokens)) in chunks.iter().enumerate() {
            let all = [self.held[*slot].as_slice(), tokens].concat();
            let got = self.core.logits(i).to_vec();
            self.expect(&all, &got, "fed");
        }
        let accepted: Vec<u32> = chunks
            .iter()
            .map(|(_, t)| {
                let part = self.draw.below(t.len() + 1);
                (if self.draw.below(2) == 0 { t.len() } else { part }) as u32
            })
            .collect();
        self.core.commit(&accepted).expect("commits");
        for ((slot, tokens), n) in chunks.iter().zip(accepted) {
            self.held[*slot].extend_from_slice(&tokens[..n as usize]);
            if self.draw.below(4) == 0 {
                self.core.anchor(*slot).expect("anchors");
            }
        }
    }

    /// A chunk that is computed and then dropped.
    fn cancel(&mut self) {
        let slot = self.draw.below(SLOTS);
        let n = self.step_rows.min(CONTEXT - self.held[slot].len());
        let tokens = self.tokens(n);
        self.core.feed(&[Feed { slot, tokens: &tokens, wanted: Wanted::Nothing }]).expect("feeds");
        self.core.discard();
    }

    /// Resumes a prefix, sometimes of another slot, sometimes with other tokens behind it, and
    /// reads what is left.
    fn rewind(&mut self) {
        let (slot, source) = (self.draw.below(SLOTS), self.draw.below(SLOTS));
        let cut = self.draw.below(self.held[source].len() + 1);
        let other = self.draw.below(3);
        let mut tokens = self.held[source][..cut].to_vec();
        tokens.extend(self.tokens(1 + other));
        tokens.truncate(CONTEXT);
        self.read_from_cache(slot, tokens);
    }

    /// Resumes what can be resumed and feeds the rest.
    fn read_from_cache(&mut self, slot: usize, tokens: Vec<u32>) {
        let mut logits = Vec::new();
        let reuse = self.core.resume(slot, &tokens).expect("resumes");
        assert!(reuse.resumed < tokens.len() && reuse.resumed <= reuse.matched, "{}", self.label);
        for part in tokens[reuse.resumed..].chunks(self.step_rows) {
            self.core.feed(&[Feed { slot, tokens: part, wanted: Wanted::Last(1) }]).expect("feeds");
            logits = self.core.logits(0).to_vec();
            self.core.commit(&[part.len() as u32]).expect("commits");
        }
        self.expect(&tokens, &logits, "rewound");
        self.held[slot] = tokens;
    }

    fn fork(&mut self) {
        let (from, to) = (self.draw.below(SLOTS), self.draw.below(SLOTS));
        if from != to {
            self.core.fork(from, to).expect("forks");
            self.held[to] = self.held[from].clone();
        }
    }

    fn save(&mut self) {
        let slot = self.draw.below(SLOTS);
        let mut bytes = Vec::new();
        self.core.save(slot, &mut bytes).expect("saves");
        self.saved = Some((bytes, self.held[slot].clone()));
    }

    fn load(&mut self) {
        let slot = self.draw.below(SLOTS);
        if let Some((bytes, tokens)) = &self.saved {
            self.core.load(slot, &mut bytes.as_slice()).expect("loads");
            self.held[slot] = tokens.clone();
        }
    }

    /// A draft depends on the tokens alone and changes nothing.
    fn draft(&mut self) {
        let slot = self.draw.below(SLOTS);
        let held = self.held[slot].clone();
        if !Engine::info(&self.core).draft || held.is_empty() || held.len() == CONTEXT {
            return;
        }
        let token = self.tokens(1)[0];
        let got = self.core.draft(slot, token).expect("drafts").to_vec();
        self.truth.known.remove(&held);
        self.truth.logits(&held);
        let want = self.truth.core.draft(0, token).expect("drafts").to_vec();
        self.compare(&got, &want, &format!("draft after {} tokens", held.len()));
    }

    fn expect(&mut self, tokens: &[u32], got: &[f32], what: &str) {
        let want = self.truth.logits(tokens).to_vec();
        self.compare(got, &want, &format!("{what} {} tokens", tokens.len()));
    }

    fn compare(&mut self, got: &[f32], want: &[f32], what: &str) {
        let found = agree(self.agreement, got, want);
        let share = found.unwrap_or_else(|fault| panic!("{what}: {fault}: {}", self.label));
        self.seen.rows += 1;
        self.seen.rms = self.seen.rms.max(share);
    }
}

/// The root mean square of the differences as a share of the spread, or what is wrong.
fn agree(agreement: Agreement, got: &[f32], want: &[f32]) -> Result<f32, String> {
    if bits(got) == bits(want) {
        return Ok(0.0);
    }
    let Agreement::Near { rms, gap } = agreement else { return Err("other bits".to_owned()) };
    if got.len() != want.len() || got.iter().any(|v| !v.is_finite()) {
        return Err("a logit is missing or not finite".to_owned());
    }
    let n = want.len() as f32;
    let mean = want.iter().sum::<f32>() / n;
    let spread = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
    let share = distance(got, want).1 / spread;
    if share > rms {
        return Err(format!("rms {share} of the spread, allowed {rms}"));
    }
    let (best, chosen) = (argmax(want) as usize, argmax(got) as usize);
    // The truth's second best may be further off than what was chosen instead.
    let ahead = want.iter().enumerate().filter(|(i, _)| *i != best);
    let second = ahead.map(|(_, v)| *v).fold(f32::NEG_INFINITY, f32::max);
    let apart = (want[best] - second) / spread;
    if chosen != best && apart > gap {
        return Err(format!("token {chosen} for {best}, which leads by {apart} of the spread"));
    }
    Ok(share)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_neither_far_nor_another_token() {
        let near = Agreement::Near { rms: 0.1, gap: 0.05 };
        let want = [0.0, 1.0, 2.0, 4.0];
        assert_eq!(agree(Agreement::Bits, &want, &want), Ok(0.0));
        assert!(agree(Agreement::Bits, &[0.0, 1.0, 2.0, 4.1], &want).is_err());
        assert!(agree(near, &[0.0, 1.0, 2.0, 4.1], &want).is_ok());
        assert!(agree(near, &[0.0, 1.0, 2.0, 5.0], &want).is_err());
        assert!(agree(near, &[0.0, 1.0, 2.0, f32::NAN], &want).is_err());
        // Two that are nearly equal may change places, others may not.
        assert!(agree(near, &[0.0, 1.0, 4.02, 4.0], &[0.0, 1.0, 4.0, 4.01]).is_ok());
        let strict = Agreement::Near { rms: 10.0, gap: 0.05 };
        assert!(agree(strict, &[0.0, 1.0, 4.0, 2.0], &want).is_err());
    }
}
