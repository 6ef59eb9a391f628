//! The candidates of a draw: one weight a token, cut by rank and by mass in linear time.
//!
//! A cut falls among a few heavy tokens nearly always. So both cuts first find a weight below which
//! no token can be of interest, and only what is above is partitioned.

/// A weight for every token, by id; 0 is out.
#[derive(Debug)]
pub(super) struct Weights {
    of: Vec<f32>,
    /// The sum of each stretch of [`BLOCK`] weights.
    masses: Vec<f64>,
    /// The weights that a cut may fall among, in no order.
    keys: Vec<f32>,
}

/// Weights that are looked at together.
const BLOCK: usize = 256;
/// Weights whose largest bounds a cut by rank.
const MAXIMUM_OF: usize = 64;
/// Weights below e⁻⁸⁰ are out: beside the best they do not exist in f32.
pub(super) const FLOOR: f32 = -80.0;

/// Where a cut falls: weights above `least` stay, and the first `n_ties` tokens that weigh it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    least: f32,
    n_ties: usize,
}

impl Weights {
    pub(super) fn new(n_vocab: usize) -> Self {
        Self {
            of: Vec::with_capacity(n_vocab),
            masses: Vec::with_capacity(n_vocab.div_ceil(BLOCK)),
            keys: Vec::with_capacity(n_vocab),
        }
    }

    /// Bytes that [`Weights::new`] allocates.
    pub(super) fn bytes(n_vocab: usize) -> usize {
        8 * n_vocab + 8 * n_vocab.div_ceil(BLOCK)
    }

    /// Weighs logits against the best of them that may come; that weighs 1. What is further below it
    /// than `floor`, times `scale`, and tokens without a bit in `mask` are out.
    pub(super) fn weigh(
        &mut self,
        logits: &[f32],
        mask: Option<&[u32]>,
        best: f32,
        (scale, floor): (f32, f32),
    ) {
        self.of.resize(logits.len(), 0.0);
        self.masses.clear();
        let blocks = self.of.chunks_mut(BLOCK).zip(logits.chunks(BLOCK));
        for (i, (weights, logits)) in blocks.enumerate() {
            let words = mask.map(|mask| mask.get(i * BLOCK / 32..).unwrap_or(&[]));
            let words = words.map(|words| &words[..words.len().min(BLOCK / 32)]);
            if words.is_some_and(|words| words.iter().all(|word| *word == 0)) {
                weights.fill(0.0);
                self.masses.push(0.0);
                continue;
            }
            for (weight, &logit) in weights.iter_mut().zip(logits) {
                let x = (logit - best) * scale;
                let inside = if x > FLOOR { x } else { FLOOR };
                *weight = if x >= floor { exp(inside) } else { 0.0 };
            }
            if let Some(words) = words {
                forbid(weights, words);
            }
            // While they are near.
            self.masses.push(mass_of(weights));
        }
    }

    /// Keeps the `k` heaviest tokens; of equals those with the lowest ids. `k` is not 0.
    pub(super) fn keep_top_k(&mut self, k: usize) {
        // If k stretches have a weight of at least `bound`, so have k tokens.
        self.keys.clear();
        self.keys.extend(self.of.chunks(MAXIMUM_OF).map(super::largest));
        let bound = match self.keys.len() >= k {
            true => *self.keys.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1,
            false => 0.0,
        };
        self.gather(bound);
        if self.keys.len() >= k {
            let (above, least, _) = self.keys.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            let least = *least;
            let n_heavier = above.iter().filter(|key| **key > least).count();
            self.keep(Cut { least, n_ties: k - n_heavier });
        }
    }

    /// Keeps the fewest tokens, heaviest first, that have `share` of all weight.
    pub(super) fn keep_top_p(&mut self, share: f32) {
        let total: f64 = self.masses.iter().sum();
        let share = f64::from(share);
        // All tokens that weigh less have together less than what may be missing.
        let bound = (1.0 - share) * total / self.of.len().max(1) as f64;
        self.gather((bound as f32).next_down());
        if !self.keys.is_empty() {
            let cut = cut_by_mass(&mut self.keys, share * total);
            self.keep(cut);
        }
    }

    /// The token at a share in [0, 1) of all weight, in the order of ids; `None` where nothing
    /// weighs anything.
    pub(super) fn draw(&self, share: f32) -> Option<u32> {
        let total: f64 = self.masses.iter().sum();
        let mut left = f64::from(share) * total;
        for (i, (block, &mass)) in self.of.chunks(BLOCK).zip(&self.masses).enumerate() {
            if left >= mass {
                left -= mass;
                continue;
            }
            for (j, &weight) in block.iter().enumerate() {
                left -= f64::from(weight);
                if left < 0.0 {
                    return Some((i * BLOCK + j) as u32);
                }
            }
        }
        // What rounding left over belongs to the last token.
        self.of.iter().rposition(|weight| *weight > 0.0).map(|id| id as u32)
    }

    /// The tokens that are left.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<u32> {
        let ids = (0u32..).zip(&self.of);
        ids.filter(|(_, weight)| **weight > 0.0).map(|(id, _)| id).collect()
    }

    /// Collects the weights from `bound` up, zeros never.
    fn gather(&mut self, bound: f32) {
        let bound = bound.max(f32::MIN_POSITIVE);
        self.keys.clear();
        // Most stretches have nothing that heavy.
        for weights in self.of.chunks(MAXIMUM_OF) {
            if super::largest(weights) >= bound {
                self.keys.extend(weights.iter().filter(|weight| **weight >= bound));
            }
        }
    }

    fn keep(&mut self, Cut { least, n_ties }: Cut) {
        let mut n_equal = 0;
        for weight in &mut self.of {
            n_equal += usize::from(*weight == least);
            *weight = if *weight >= least { *weight } else { 0.0 };
        }
        if n_equal > n_ties {
            let equal = self.of.iter_mut().filter(|weight| **weight == least);
            equal.skip(n_ties).for_each(|weight| *weight = 0.0);
        }
        let masses = self.masses.iter_mut().zip(self.of.chunks(BLOCK));
        masses.for_each(|(mass, block)| *mass = mass_of(block));
    }
}

/// The bits of a word, each in a lane of its own: a shift by another count in each lane is no
/// vector code on old processors.
const BITS: [u32; 32] = {
    let mut bits = [0; 32];
    let mut i = 0;
    while i < 32 {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

/// Puts tokens out whose bit is not set; words that are missing at the end allow nothing.
fn forbid(weights: &mut [f32], words: &[u32]) {
    let (whole, rest) = weights.as_chunks_mut::<32>();
    let mut words = words.iter().copied().chain(std::iter::repeat(0));
    let only = |weights: &mut [f32], word: u32| {
        for (weight, bit) in weights.iter_mut().zip(BITS) {
            *weight = if word & bit != 0 { *weight } else { 0.0 };
        }
    };
    whole.iter_mut().zip(&mut words).for_each(|(weights, word)| only(weights, word));
    only(rest, words.next().unwrap_or(0));
}

/// The largest value among tokens whose bit is set.
pub(super) fn largest_allowed(logits: &[f32], mask: &[u32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let mut take = |values: &[f32], word: u32| {
        for ((lane, &value), bit) in lanes.iter_mut().zip(values).zip(BITS) {
            let value = if word & bit != 0 { value } else { f32::NEG_INFINITY };
            *lane = if value > *lane { value } else { *lane };
        }
    };
    let (whole, rest) = logits.as_chunks::<32>();
    for (values, &word) in whole.iter().zip(mask) {
        if word != 0 {
            take(values, word);
        }
    }
    take(rest, mask.get(whole.len()).copied().unwrap_or(0));
    super::largest(&lanes)
}

/// The sum of a block, in lanes that become vector code.
fn mass_of(block: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    let mut add = |weights: &[f32]| {
        weights.iter().zip(&mut lanes).for_each(|(weight, lane)| *lane += f64::from(*weight));
    };
    let (whole, rest) = block.as_chunks::<8>();
    whole.iter().for_each(|eight| add(eight));
    add(rest);
    lanes.iter().sum()
}

/// Where the heaviest of `keys` together reach `target`. Halves what is left each time, so that
/// even equal keys take linear time.
fn cut_by_mass(keys: &mut [f32], target: f64) -> Cut {
    let mass = |keys: &[f32]| keys.iter().map(|key| f64::from(*key)).sum::<f64>();
    let (mut start, mut end) = (0, keys.len());
    let mut above = 0.0;
    while end - start > 1 {
        let middle = (end - start) / 2;
        let rest = &mut keys[start..end];
        rest.select_nth_unstable_by(middle - 1, |a, b| b.total_cmp(a));
        let heavier = above + mass(&rest[..middle]);
        if heavier >= target {
            end = start + middle;
        } else {
            above = heavier;
            start += middle;
        }
    }
    // The heaviest `end` keys stay.
    let least = keys[start];
    let n_heavier = keys.iter().filter(|key| **key > least).count();
    Cut { least, n_ties: end - n_heavier }
}

/// e^x for x in [-80, 0], to 2 units in the last place. Branch-free, so that loops over it become
/// vector code.
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN_2: (f32, f32) = (0.693_145_75, 1.428_606_8e-6);
    // x = n · ln 2 + r with |r| ≤ ln 2 / 2; adding ROUND leaves n in the lowest bits.
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2.0 - n * LN_2.1;
    let tail = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0));
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * tail))));
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    series * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_exponential_function() {
        assert_eq!(exp(0.0), 1.0);
        for i in 0..=80_000 {
            let x = -(i as f32) / 1000.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= 3e-7 * want, "{x}");
        }
    }

    /// The definition: sort by weight, ties by id, keep the first.
    fn by_sorting(weights: &Weights, top_k: usize, top_p: f32) -> Vec<u32> {
        let mut sorted: Vec<(f32, u32)> = weights.of.iter().copied().zip(0..).collect();
        sorted.retain(|(weight, _)| *weight > 0.0);
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        sorted.truncate(top_k);
        let total: f64 = sorted.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let mut mass = 0.0;
        let reaches = |(weight, _): &(f32, u32)| {
            mass += f64::from(*weight);
            mass >= f64::from(top_p) * total
        };
        let n = sorted.iter().position(reaches).map_or(sorted.len(), |at| at + 1);
        let mut ids: Vec<u32> = sorted[..n].iter().map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn cuts_are_those_of_a_sorted_list() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        for round in 0..300 {
            let n = 1 + (next() * 700.0) as usize;
            // Wide, narrow and coarse logits: the last are full of ties.
            let logits: Vec<f32> = (0..n)
                .map(|_| match round % 3 {
                    0 => next() * 100.0,
                    1 => next(),
                    _ => (next() * 4.0).floor(),
                })
                .collect();
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            let mut weights = Weights::new(n);
            let top_k = 1 + (next() * n as f32) as usize;
            let top_p = if round % 7 == 0 { 0.0 } else { next() };
            let floor = if round % 5 == 0 { 0.05f32.ln() } else { FLOOR };
            weights.weigh(&logits, None, best, (1.0 / 0.7, floor));
            let want = by_sorting(&weights, top_k, top_p);
            weights.keep_top_k(top_k);
            weights.keep_top_p(top_p);
            assert_eq!(weights.kept(), want, "round {round}: top-k {top_k}, top-p {top_p}");
        }
    }

    #[test]
    fn equal_weights_are_cut_by_id() {
        let mut weights = Weights::new(1000);
        weights.weigh(&[3.0; 1000], None, 3.0, (1.0, FLOOR));
        weights.keep_top_p(0.25);
        assert_eq!(weights.kept(), (0..250).collect::<Vec<_>>());
        weights.keep_top_k(3);
        assert_eq!(weights.kept(), [0, 1, 2]);
        assert_eq!(weights.draw(0.5), Some(1));
        assert_eq!(Weights::new(4).draw(0.5), None);
    }
}
