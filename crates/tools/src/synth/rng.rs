//! Random words addressed by position, so that any thread can make any part of a file.

/// A stream of random words for one tensor; word `i` depends on the stream and `i` alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    key: u64,
}

/// 2⁶⁴ divided by the golden ratio: consecutive multiples fall far apart.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Words {
    /// The stream of the tensor `name` under `seed`. Keyed by name, so that a file with fewer
    /// layers has the same weights in those it has.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let hash = |key: u64, byte: u8| mix(key ^ u64::from(byte)).wrapping_add(GOLDEN);
        Self { key: name.bytes().fold(mix(seed ^ GOLDEN), hash) }
    }

    /// Word `i`.
    #[inline(always)]
    pub(crate) fn get(self, i: u64) -> u64 {
        mix(self.key.wrapping_add(i.wrapping_mul(GOLDEN)))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
/// generators"): every output bit depends on every input bit.
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_balanced_and_streams_differ() {
        let (a, b) = (Words::new(1, "blk.0.a"), Words::new(1, "blk.0.b"));
        let ones: u32 = (0..4096).map(|i| a.get(i).count_ones()).sum();
        let half = 4096 * 32;
        // Five standard deviations of a fair coin thrown 262,144 times.
        assert!(ones.abs_diff(half) < 1280, "{ones} ones, {half} expected");
        assert!((0..64).all(|i| a.get(i) != b.get(i)));
        assert_ne!(Words::new(1, "x").get(0), Words::new(2, "x").get(0));
    }
}
