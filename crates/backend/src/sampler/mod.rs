//! From logits to a token: penalties, temperature, the cuts, a draw. All of it takes time that is
//! linear in the vocabulary.
//!
//! A draw depends on the seed and the position alone, so that a resumed, batched or regenerated
//! sequence draws the same.

mod weights;

use weights::{FLOOR, Weights, largest_allowed};

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Candidates kept by rank; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept, from the top; 1 keeps all.
    pub top_p: f32,
    /// Candidates kept have at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// Always the best token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_last: 64,
        seed: 0,
    };

    /// The choice of the token at position `pos`, but for the repeat penalty.
    pub fn draw(&self, pos: usize) -> Draw {
        Draw {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            share: uniform(self.seed, pos),
        }
    }

    /// Names the first value that is out of range.
    ///
    /// # Errors
    /// (option, range, value).
    pub fn check(&self) -> Result<(), (&'static str, &'static str, f32)> {
        let bad =
            |ok: bool, name, range, value| if ok { Ok(()) } else { Err((name, range, value)) };
        let t = self.temperature;
        bad(t.is_finite() && (0.0..=100.0).contains(&t), "temperature", "0 to 100", t)?;
        bad((0.0..=1.0).contains(&self.top_p), "top-p", "0 to 1", self.top_p)?;
        bad((0.0..=1.0).contains(&self.min_p), "min-p", "0 to 1", self.min_p)?;
        let r = self.repeat_penalty;
        bad(r.is_finite() && (0.01..=100.0).contains(&r), "repeat-penalty", "0.01 to 100", r)
    }
}

/// One choice: how, with what chance decides it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// As in [`Sampling`].
    pub temperature: f32,
    /// As in [`Sampling`].
    pub top_k: usize,
    /// As in [`Sampling`].
    pub top_p: f32,
    /// As in [`Sampling`].
    pub min_p: f32,
    /// The share of all weight at which the token lies, in the order of ids: in [0, 1), a multiple of
    /// 2⁻²⁴.
    pub share: f32,
}

impl Draw {
    /// Always the best token.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, share: 0.0 };

    /// Whether it is the best token, whatever the share.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// What differences of logits are multiplied with.
    pub fn scale(&self) -> f32 {
        1.0 / self.temperature
    }

    /// Tokens whose scaled logit is further below the best one's weigh nothing: a cut by `min_p`, and
    /// below e⁻⁸⁰ weights do not exist beside the best.
    pub fn floor(&self) -> f32 {
        if self.min_p > 0.0 { self.min_p.ln().max(FLOOR) } else { FLOOR }
    }
}

/// Scratch for one sampling stream; nothing is allocated per token.
#[derive(Debug)]
pub struct Sampler {
    weights: Weights,
    logits: Vec<f32>,
}

impl Sampler {
    /// Scratch for a vocabulary.
    pub fn new(n_vocab: usize) -> Self {
        Self { weights: Weights::new(n_vocab), logits: Vec::with_capacity(n_vocab) }
    }

    /// Bytes that [`Sampler::new`] allocates.
    pub fn bytes(n_vocab: usize) -> usize {
        Weights::bytes(n_vocab) + 4 * n_vocab
    }

    /// The next token.
    pub fn draw(&mut self, logits: &[f32], draw: &Draw) -> u32 {
        self.choose(logits, None, draw).unwrap_or_else(|| argmax(logits))
    }

    /// The next token. `recent` are the tokens that the repeat penalty may look at, `pos` is the
    /// position that the token will have.
    pub fn sample(&mut self, logits: &[f32], how: &Sampling, recent: &[u32], pos: usize) -> u32 {
        if how.repeat_penalty != 1.0 {
            return self.sample_penalised(logits, how, recent, pos);
        }
        self.draw(logits, &how.draw(pos))
    }

    /// As [`Sampler::sample`], among tokens whose bit is set: bit `token % 32` of word
    /// `token / 32`; words that are missing at the end allow nothing. `None` if no token is left.
    pub fn sample_allowed(
        &mut self,
        logits: &[f32],
        mask: &[u32],
        how: &Sampling,
        pos: usize,
    ) -> Option<u32> {
        self.choose(logits, Some(mask), &how.draw(pos))
    }

    fn sample_penalised(
        &mut self,
        logits: &[f32],
        how: &Sampling,
        recent: &[u32],
        pos: usize,
    ) -> u32 {
        let mut adjusted = std::mem::take(&mut self.logits);
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        let window = &recent[recent.len().saturating_sub(how.repeat_last)..];
        for (i, &token) in window.iter().enumerate() {
            if window[..i].contains(&token) {
                continue;
            }
            if let Some(logit) = adjusted.get_mut(token as usize) {
                let penalty = how.repeat_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        let token = self.draw(&adjusted, &how.draw(pos));
        self.logits = adjusted;
        token
    }

    fn choose(&mut self, logits: &[f32], mask: Option<&[u32]>, how: &Draw) -> Option<u32> {
        let best = match mask {
            Some(mask) => largest_allowed(logits, mask),
            None => largest(logits),
        };
        if how.is_greedy() || !best.is_finite() {
            return first(logits, mask, best);
        }
        self.weights.weigh(logits, mask, best, (how.scale(), how.floor()));
        if how.top_k > 0 && how.top_k < logits.len() {
            self.weights.keep_top_k(how.top_k);
        }
        if how.top_p < 1.0 {
            self.weights.keep_top_p(how.top_p);
        }
        self.weights.draw(how.share)
    }
}

fn allows(mask: &[u32], id: usize) -> bool {
    mask.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// The first token with this logit among those whose bit is set.
fn first(logits: &[f32], mask: Option<&[u32]>, logit: f32) -> Option<u32> {
    const BLOCK: usize = 128;
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        // A search that may end at every value is no vector code; one that never does is.
        if !block.iter().fold(false, |is_here, value| is_here | (*value == logit)) {
            continue;
        }
        let mut ids =
            (i * BLOCK..).zip(block).filter(|(_, value)| **value == logit).map(|(id, _)| id);
        let found = ids.find(|id| mask.is_none_or(|mask| allows(mask, *id)));
        if let Some(id) = found {
            return Some(id as u32);
        }
    }
    None
}

/// The index of the largest value, the lowest on ties.
pub fn argmax(logits: &[f32]) -> u32 {
    first(logits, None, largest(logits)).unwrap_or(0)
}

/// The largest value that is a number; negative infinity if there is none.
fn largest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut take = |values: &[f32]| {
        for (lane, &value) in lanes.iter_mut().zip(values) {
            *lane = if value > *lane { value } else { *lane };
        }
    };
    let (whole, rest) = logits.as_chunks::<16>();
    whole.iter().for_each(|values| take(values));
    take(rest);
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// A number in [0, 1) from splitmix64 of seed and position.
fn uniform(seed: u64, pos: usize) -> f32 {
    let mut z = seed.wrapping_add((pos as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32) -> Sampling {
        Sampling { temperature, ..Sampling::GREEDY }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let mut s = Sampler::new(4);
        assert_eq!(s.sample(&[1.0, 3.0, 3.0, 2.0], &sampling(0.0), &[], 0), 1);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let mut s = Sampler::new(3);
        let logits = [0.0, 2.0f32.ln(), f32::NEG_INFINITY];
        let mut counts = [0; 3];
        for pos in 0..9000 {
            counts[s.sample(&logits, &sampling(1.0), &[], pos) as usize] += 1;
        }
        assert_eq!(counts[2], 0);
        assert!((counts[1] as f32 / 9000.0 - 2.0 / 3.0).abs() < 0.02, "{counts:?}");
        let draw = |s: &mut Sampler, seed| {
            let how = Sampling { seed, ..sampling(1.0) };
            (0..32).map(|pos| s.sample(&logits, &how, &[], pos)).collect::<Vec<_>>()
        };
        assert_eq!(draw(&mut s, 1), draw(&mut s, 1));
        assert_ne!(draw(&mut s, 1), draw(&mut s, 2));
    }

    #[test]
    fn cuts_keep_what_they_say() {
        let mut s = Sampler::new(4);
        let logits = [4.0f32.ln(), 3.0f32.ln(), 2.0f32.ln(), 1.0f32.ln()];
        let seen = |s: &mut Sampler, how: Sampling| {
            let mut seen = [false; 4];
            (0..400).for_each(|pos| seen[s.sample(&logits, &how, &[], pos) as usize] = true);
            seen
        };
        let base = sampling(1.0);
        assert_eq!(seen(&mut s, base), [true; 4]);
        assert_eq!(seen(&mut s, Sampling { top_k: 2, ..base }), [true, true, false, false]);
        assert_eq!(seen(&mut s, Sampling { top_p: 0.65, ..base }), [true, true, false, false]);
        assert_eq!(seen(&mut s, Sampling { min_p: 0.4, ..base }), [true, true, true, false]);
    }

    #[test]
    fn only_allowed_tokens_are_chosen() {
        let mut s = Sampler::new(70);
        let mut logits = vec![1.0; 70];
        (logits[3], logits[40], logits[69]) = (9.0, 5.0, 5.0);
        let mask = [!(1 << 3), 0x100 | 1];
        assert_eq!(s.sample_allowed(&logits, &mask, &sampling(0.0), 0), Some(40));
        let how = Sampling { top_p: 0.9, ..sampling(1.0) };
        for pos in 0..200 {
            let token = s.sample_allowed(&logits, &mask, &how, pos).unwrap();
            assert!(token < 41 && token != 3, "{token}");
        }
        assert_eq!(s.sample_allowed(&logits, &[0, 0, 0], &sampling(0.0), 0), None);
        assert_eq!(s.sample_allowed(&logits, &[], &how, 0), None);
        logits[40] = f32::NEG_INFINITY;
        assert_eq!(s.sample_allowed(&logits, &[0, 1 << 8], &how, 0), Some(40));
    }

    #[test]
    fn what_is_no_number_is_never_chosen() {
        let mut s = Sampler::new(4);
        let logits = [f32::NAN, f32::NEG_INFINITY, 1.0, f32::NAN];
        assert_eq!(argmax(&logits), 2);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), 1);
        assert_eq!(argmax(&[f32::NAN; 2]), 0);
        for pos in 0..100 {
            assert_eq!(s.sample(&logits, &sampling(1.0), &[], pos), 2);
        }
    }

    #[test]
    fn the_penalty_pushes_recent_tokens_down_once() {
        let mut s = Sampler::new(2);
        let how = Sampling { repeat_penalty: 2.0, ..sampling(0.0) };
        assert_eq!(s.sample(&[3.0, 2.0], &how, &[], 0), 0);
        assert_eq!(s.sample(&[3.0, 2.0], &how, &[0, 0, 0], 0), 1);
        assert_eq!(s.sample(&[-1.0, -1.5], &how, &[0], 0), 1);
    }
}
