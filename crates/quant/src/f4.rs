//! E2M1: sign, two exponent bits, one mantissa bit; magnitudes 0, 1/2, 1, 3/2, 2, 3, 4 and 6.

/// Largest E2M1 magnitude.
pub const E2M1_MAX: f32 = 6.0;

/// The value of every E2M1 code.
pub static E2M1_VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The nearest E2M1 code (0..16), ties to even, saturating at 6. A NaN, which the format lacks,
/// becomes a zero.
#[inline]
#[must_use]
pub fn encode(x: f32) -> u8 {
    let a = x.abs();
    // One comparison per step; a tie goes up where the code above is even.
    let code = u8::from(a > 0.25)
        + u8::from(a >= 0.75)
        + u8::from(a > 1.25)
        + u8::from(a >= 1.75)
        + u8::from(a > 2.5)
        + u8::from(a >= 3.5)
        + u8::from(a > 5.0);
    code | (x.to_bits() >> 28) as u8 & 8
}

/// The value of the E2M1 code in the low nibble of `code`.
#[inline]
#[must_use]
pub fn decode(code: u8) -> f32 {
    E2M1_VALUES[usize::from(code & 15)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_even() {
        for code in 0..7u8 {
            let (a, b) = (decode(code), decode(code + 1));
            let middle = (a + b) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            for (x, expected) in [
                (a, code),
                (middle, even),
                (middle.next_down(), code),
                (middle.next_up(), code + 1),
            ] {
                assert_eq!(encode(x), expected, "{x}");
                assert_eq!(encode(-x), expected | 8, "-{x}");
            }
        }
        assert_eq!((encode(1e9), encode(f32::NEG_INFINITY)), (7, 15));
        assert_eq!(encode(f32::NAN) & 7, 0);
    }
}
