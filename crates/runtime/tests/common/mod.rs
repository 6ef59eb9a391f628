//! A seeded generator, a model that is a pure function, and what it must answer.

use engine::{Sampler, Sampling};
use runtime::fake::Model;
use runtime::{Allowed, Constraint, Params};

/// Tokens of the test vocabulary.
pub(crate) const N_VOCAB: usize = 48;
/// A token that engines in tests may refuse to compute.
pub(crate) const POISON: u32 = N_VOCAB as u32 - 1;

/// Splitmix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Logits that are a hash of everything before them. The poison is never likely.
pub(crate) fn hash_model() -> Model {
    Box::new(|tokens, logits| {
        let prefix = tokens.iter().fold(1, |hash, &token| {
            (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01B3).rotate_left(23)
        });
        for (token, logit) in logits.iter_mut().enumerate() {
            *logit = (mix(prefix ^ ((token as u64) << 56)) % 1000) as f32 / 100.0;
        }
        logits[POISON as usize] = -100.0;
    })
}

/// Allows even tokens, then odd ones, and so on, and the stop token always; greedy at odd ones.
#[derive(Default)]
pub(crate) struct Parity {
    n_accepted: usize,
    mask: [u32; 2],
}

impl Constraint for Parity {
    fn allowed(&mut self) -> Result<Allowed<'_>, String> {
        let is_odd = self.n_accepted % 2 == 1;
        self.mask = [if is_odd { 0xAAAA_AAAA } else { 0x5555_55D5 }; 2];
        Ok(Allowed { mask: Some(&self.mask), greedy: is_odd })
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        self.n_accepted += 1;
        Ok(())
    }
}

/// The answer by the definition, one token after another, and whether a stop token ends it.
pub(crate) fn expected(params: &Params, is_constrained: bool) -> (Vec<u32>, bool) {
    let model = hash_model();
    let mut sampler = Sampler::new(N_VOCAB);
    let mut tokens = params.prompt.clone();
    for n in 0..params.max_tokens {
        let mut logits = vec![0.0; N_VOCAB];
        model(&tokens, &mut logits);
        let mut how = params.sampling;
        if is_constrained {
            let mut parity = Parity { n_accepted: n, mask: [0; 2] };
            let allowed = parity.allowed().unwrap();
            if allowed.greedy {
                how = Sampling { temperature: 0.0, ..how };
            }
            for (token, logit) in logits.iter_mut().enumerate() {
                if !allowed.contains(token as u32) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let token = sampler.sample(&logits, &how, &tokens, tokens.len());
        if params.stop_tokens.contains(&token) {
            return (tokens[params.prompt.len()..].to_vec(), true);
        }
        tokens.push(token);
    }
    (tokens[params.prompt.len()..].to_vec(), false)
}
