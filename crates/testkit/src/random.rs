//! Small model shapes drawn from a seed, for property tests.

use crate::oracle::{Config, splitmix64_at};

/// Decisions drawn one after another from a seed.
pub struct Draw {
    state: u64,
    count: u64,
}

impl Draw {
    /// A stream of decisions that depends on `seed` alone.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: splitmix64_at(seed, 1), count: 0 }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.count += 1;
        splitmix64_at(self.state, self.count)
    }

    /// A number below `n`.
    ///
    /// # Panics
    ///
    /// When `n` is zero.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// One of `choices`.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

/// A valid shape of a few hundred thousand parameters at most: between one and five layers of any
/// ratios, with or without hash routing, grouped output, few or many heads and experts, and windows
/// from 8 to 128. Rows are whole blocks of Q8_0 and MXFP4, not always of the 256-wide formats.
#[must_use]
pub fn config(seed: u64) -> Config {
    let mut d = Draw::new(seed);
    let n_layers = 1 + d.below(5);
    let ratios: Vec<u32> = (0..n_layers).map(|_| d.one_of(&[0, 4, 4, 128])).collect();
    let o_groups = d.one_of(&[1, 2, 4, 16]);
    let heads = o_groups * d.one_of(if o_groups == 16 { &[1] } else { &[1, 2, 4] });
    let rope_dim = d.one_of(&[32, 64]);
    // The part of a head that is not rotated is stored in FP8 blocks of 64.
    let head_dim = rope_dim + 64 * d.one_of(if heads > 8 { &[1] } else { &[1, 2, 3] });
    let index_dim = d.one_of(&[64, 128]);
    let experts = d.one_of(&[4, 6, 8, 16]);
    Config {
        name: format!("random-{seed}"),
        hidden: d.one_of(&[32, 64, 96]),
        hash_layers: d.below(n_layers + 1),
        ratios,
        heads,
        head_dim,
        rope_dim,
        q_lora: d.one_of(&[32, 64]),
        o_groups,
        o_lora: d.one_of(&[32, 64]),
        experts,
        experts_used: 1 + d.below(experts.min(6)),
        moe_inter: d.one_of(&[32, 64]),
        window: d.one_of(&[8, 16, 64, 128]),
        index_heads: d.one_of(&[2, 4, 16]),
        index_dim,
        index_top_k: d.one_of(&[1, 3, 8, 64]),
        sinkhorn: d.one_of(&[1, 2, 20]),
        vocab: Config::MIN_VOCAB + d.below(24),
        route_scale: d.one_of(&[1.0, 1.5, 2.5]),
        swiglu_limit: d.one_of(&[1.0, 7.0, 10.0]),
        yarn_factor: d.one_of(&[4.0, 16.0]),
        yarn_original: d.one_of(&[256, 1024]),
        max_positions: 4096,
        seed,
        out_gain: 0.3,
        ..Config::tiny_a()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::oracle::{Mtp, Scheme, write_gguf};

    #[test]
    fn shapes_are_valid_and_small() {
        let mut ratios = HashSet::new();
        for seed in 0..300 {
            let c = config(seed);
            assert_eq!(c.heads % c.o_groups, 0);
            assert!(c.rope_dim <= c.index_dim && c.index_dim.is_power_of_two());
            assert!(c.experts_used <= c.experts && c.hash_layers <= c.n_layers());
            assert_eq!((c.head_dim - c.rope_dim) % 64, 0);
            ratios.extend(c.ratios.clone());
            if seed % 10 == 0 {
                let bytes = write_gguf(&c, Scheme::Q8_0, Mtp::LlamaAppended);
                assert!(bytes.len() < 4 << 20, "{} bytes for {c:?}", bytes.len());
                gguf::Gguf::from_vec(bytes, &c.name).unwrap();
            }
        }
        assert_eq!(ratios, HashSet::from([0, 4, 128]));
    }

    #[test]
    fn a_seed_is_a_shape() {
        assert_eq!(config(7), config(7));
        assert_ne!(config(7), config(8));
    }
}
