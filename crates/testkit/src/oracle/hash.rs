//! The two hash functions that every weight comes from.

/// FNV-1a of the UTF-8 bytes of `s`.
#[must_use]
pub fn fnv1a64(s: &str) -> u64 {
    s.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// Output `i` (the first is 1) of splitmix64 started in state `base`.
#[inline]
#[must_use]
pub fn splitmix64_at(base: u64, i: u64) -> u64 {
    let z = base.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
