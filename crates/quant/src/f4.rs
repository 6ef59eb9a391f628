//! E2M1: sign, two exponent bits, one mantissa bit; magnitudes 0, 1/2, 1, 3/2, 2, 3, 4 and 6.

/// Largest E2M1 magnitude.
pub const E2M1_MAX: f32 = 6.0;

/// The value of every E2M1 code.
pub static E2M1_VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The nearest E2M1 code (0..16), ties to even, saturating at 6. A NaN, which the format lacks,
/// becomes a zero.
#[inline(always)]
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

/// `decode(encode(x))` without the code in between: the nearest E2M1 value, ties to even,
/// saturating at 6.
#[inline(always)]
#[must_use]
pub fn round(x: f32) -> f32 {
    let sign = x.to_bits() & 0x8000_0000;
    let magnitude = x.abs();
    let magnitude = if magnitude < E2M1_MAX { magnitude } else { E2M1_MAX };
    // From 1 on, one mantissa bit remains; below, the step is 1/2, the last place of floats near
    // 2^22.
    let m = magnitude.to_bits();
    let normal = (m + 0x1F_FFFF + (m >> 22 & 1)) & !0x3F_FFFF;
    let subnormal = ((magnitude + 4_194_304.0) - 4_194_304.0).to_bits();
    f32::from_bits(sign | if magnitude < 1.0 { subnormal } else { normal })
}

/// The value of the E2M1 code in the low nibble of `code`.
#[inline]
#[must_use]
pub fn decode(code: u8) -> f32 {
    E2M1_VALUES[usize::from(code & 15)]
}

/// [`decode`] by arithmetic, for loops that become vectors: those have no table look-ups.
#[inline(always)]
pub(crate) fn decode_arithmetic(code: u8) -> f32 {
    let magnitude = u32::from(code & 7);
    // One mantissa bit, and an exponent rebiased from 1 to 127.
    let normal = (magnitude << 22) + (126 << 23);
    let subnormal = (magnitude as i32 as f32 * 0.5).to_bits();
    let bits = if magnitude < 2 { subnormal } else { normal };
    f32::from_bits(bits | u32::from(code & 8) << 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_equals_the_table() {
        for code in 0..=255 {
            assert_eq!(decode_arithmetic(code).to_bits(), decode(code).to_bits(), "{code:#x}");
        }
    }

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
        for i in -4000..4000 {
            let x = i as f32 / 512.0;
            assert_eq!(round(x).to_bits(), decode(encode(x)).to_bits(), "{x}");
        }
        assert_eq!((encode(1e9), encode(f32::NEG_INFINITY)), (7, 15));
        assert_eq!(encode(f32::NAN) & 7, 0);
    }
}
