//! From a row of logits to a choice.

use engine::{Sampler, Sampling};

use crate::constraint::{Allowed, Constraint};
use crate::event::{Failure, TokenLogprob};
use crate::request::Penalties;
use crate::stream::Stream;

/// Scratch of the engine thread; nothing is allocated per token unless log probabilities are
/// reported.
#[derive(Debug)]
pub(crate) struct Chooser {
    sampler: Sampler,
    adjusted: Vec<f32>,
}

/// A token and what is reported with it.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) token: u32,
    pub(crate) logprobs: Option<Box<TokenLogprob>>,
    /// What must come behind it.
    pub(crate) forced: Vec<u32>,
}

impl Choice {
    /// A token alone.
    pub(crate) fn of(token: u32) -> Self {
        Self { token, logprobs: None, forced: Vec::new() }
    }
}

impl Chooser {
    pub(crate) fn new(n_vocab: usize) -> Self {
        Self { sampler: Sampler::new(n_vocab), adjusted: Vec::with_capacity(n_vocab) }
    }

    /// Chooses the token after what the stream has, and tells its constraint.
    pub(crate) fn choose(
        &mut self,
        stream: &mut Stream,
        logits: &[f32],
    ) -> Result<Choice, Failure> {
        let pos = stream.tokens.len();
        let mut how = stream.sampling;
        // Log probabilities need every token's logits.
        if let Some(constraint) = stream.constraint.as_mut().filter(|_| stream.logprobs.is_none()) {
            let mut forced = constraint.forced().map_err(Failure::Constraint)?.into_iter();
            if let Some(token) = forced.next() {
                return Ok(Choice { forced: forced.collect(), ..Choice::of(token) });
            }
        }
        let mut constraint = stream.constraint.take();
        let allowed = match &mut constraint {
            Some(constraint) => constraint.allowed().map_err(Failure::Constraint)?,
            None => Allowed::default(),
        };
        if allowed.greedy {
            how = Sampling { temperature: 0.0, ..how };
        }
        let adjusts = !stream.penalties.is_neutral() || how.repeat_penalty != 1.0;
        let token = match allowed.mask {
            None if !adjusts => self.sampler.sample(logits, &how, &stream.tokens, pos),
            Some(mask) if !adjusts => among(self.sampler.sample_allowed(logits, mask, &how, pos))?,
            _ => {
                self.adjusted.clear();
                self.adjusted.extend_from_slice(logits);
                penalise(&mut self.adjusted, &stream.penalties, stream.answer());
                let token = forbid(&mut self.adjusted, allowed)
                    .then(|| self.sampler.sample(&self.adjusted, &how, &stream.tokens, pos));
                among(token)?
            }
        };
        accept(constraint.as_deref_mut(), token)?;
        stream.constraint = constraint;
        let logprobs = stream.logprobs.map(|n| Box::new(logprobs(logits, token, n)));
        Ok(Choice { logprobs, ..Choice::of(token) })
    }
}

fn among(token: Option<u32>) -> Result<u32, Failure> {
    token.ok_or_else(|| Failure::Constraint("it allows no token".to_owned()))
}

fn accept(constraint: Option<&mut (dyn Constraint + 'static)>, token: u32) -> Result<(), Failure> {
    constraint.map_or(Ok(()), |constraint| constraint.accept(token).map_err(Failure::Constraint))
}

fn penalise(logits: &mut [f32], penalties: &Penalties, answer: &[u32]) {
    for &(token, bias) in &penalties.logit_bias {
        logits[token as usize] += bias;
    }
    if penalties.presence == 0.0 && penalties.frequency == 0.0 {
        return;
    }
    let mut seen = answer.to_vec();
    seen.sort_unstable();
    for run in seen.chunk_by(|a, b| a == b) {
        let penalty = penalties.presence + penalties.frequency * run.len() as f32;
        logits[run[0] as usize] -= penalty;
    }
}

/// Makes tokens that are not allowed impossible. Whether any token is left.
fn forbid(logits: &mut [f32], allowed: Allowed<'_>) -> bool {
    let Some(mask) = allowed.mask else { return true };
    let mut is_any_left = false;
    for (i, of_word) in logits.chunks_mut(32).enumerate() {
        let word = mask.get(i).copied().unwrap_or(0);
        is_any_left |= word != 0;
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in of_word.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    is_any_left
}

/// Log probabilities of the model's own distribution.
pub(crate) fn logprobs(logits: &[f32], token: u32, n_top: usize) -> TokenLogprob {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // In f64: the sum has as many terms as the vocabulary.
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - best).exp()).sum();
    let norm = best + sum.ln() as f32;
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(n_top + 1);
    if n_top > 0 {
        for (id, &logit) in logits.iter().enumerate() {
            let is_better = |&(_, other): &(u32, f32)| logit > other;
            if top.len() < n_top || top.last().is_some_and(is_better) {
                let at = top.iter().position(is_better).unwrap_or(top.len());
                top.insert(at, (id as u32, logit));
                top.truncate(n_top);
            }
        }
    }
    top.iter_mut().for_each(|(_, logit)| *logit -= norm);
    TokenLogprob { chosen: logits[token as usize] - norm, top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_normalised_and_ordered() {
        let logits = [0.0, 3.0f32.ln(), 0.0, 4.0f32.ln()];
        let found = logprobs(&logits, 2, 3);
        let close = |a: f32, p: f32| (a - p.ln()).abs() < 1e-6;
        assert!(close(found.chosen, 1.0 / 9.0), "{found:?}");
        let ids: Vec<u32> = found.top.iter().map(|t| t.0).collect();
        assert_eq!(ids, [3, 1, 0], "ties go to the lowest id");
        assert!(close(found.top[0].1, 4.0 / 9.0) && close(found.top[1].1, 3.0 / 9.0));
    }

    #[test]
    fn penalties_count_and_bias_shifts() {
        let mut logits = [1.0; 4];
        let penalties = Penalties { presence: 0.5, frequency: 0.25, logit_bias: vec![(3, 2.0)] };
        penalise(&mut logits, &penalties, &[1, 2, 1]);
        assert_eq!(logits, [1.0, 0.0, 0.25, 3.0]);
    }

    #[test]
    fn what_is_not_allowed_becomes_impossible() {
        let mut logits = vec![0.0; 40];
        assert!(forbid(&mut logits, Allowed { mask: Some(&[0b101]), greedy: false }));
        let left: Vec<usize> = (0..40).filter(|&i| logits[i] == 0.0).collect();
        assert_eq!(left, [0, 2]);
        assert!(!forbid(&mut logits, Allowed { mask: Some(&[0, 0]), greedy: false }));
    }
}
