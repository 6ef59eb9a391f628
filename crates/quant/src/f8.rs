//! E4M3 (the "fn" variant: no infinities, NaN at 0x7F and 0xFF, largest 448) and UE8M0, the
//! power-of-two scale byte of the OCP microscaling formats.

/// Largest finite E4M3 magnitude.
pub const E4M3_MAX: f32 = 448.0;

/// The value of every E4M3 code.
pub static E4M3_VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = e4m3_value(code as u8);
        code += 1;
    }
    values
};

/// The nearest E4M3 code, ties to even, saturating at 448; NaN becomes 0x7F.
#[inline(always)]
#[must_use]
pub fn encode(x: f32) -> u8 {
    let bits = x.to_bits();
    let sign = (bits >> 24) as u8 & 0x80;
    let magnitude = x.abs();
    let magnitude = if magnitude > E4M3_MAX { E4M3_MAX } else { magnitude };
    // Normal codes keep the exponent and three mantissa bits: round at bit 20, rebias 127 to 7.
    let m = magnitude.to_bits();
    let normal = (m + 0x7FFFF + (m >> 20 & 1)).wrapping_sub(120 << 23) >> 20;
    let subnormal = (magnitude + SUBNORMAL_STEPS).to_bits().wrapping_sub(SUBNORMAL_STEPS.to_bits());
    let code = if magnitude < SUBNORMAL_END { subnormal } else { normal };
    let code = if x.is_nan() { 0x7F } else { code as u8 };
    sign | code
}

/// `decode(encode(x))` without the code in between: the nearest E4M3 value, ties to even,
/// saturating at 448. A NaN stays a NaN.
#[inline(always)]
#[must_use]
pub fn round(x: f32) -> f32 {
    let sign = x.to_bits() & 0x8000_0000;
    let magnitude = x.abs();
    let magnitude = if magnitude > E4M3_MAX { E4M3_MAX } else { magnitude };
    let m = magnitude.to_bits();
    let normal = (m + 0x7FFFF + (m >> 20 & 1)) & !0xF_FFFF;
    let subnormal = ((magnitude + SUBNORMAL_STEPS) - SUBNORMAL_STEPS).to_bits();
    let rounded = if magnitude < SUBNORMAL_END { subnormal } else { normal };
    if x.is_nan() { x } else { f32::from_bits(sign | rounded) }
}

/// Magnitudes below this one, 2^-6, are multiples of 2^-9.
const SUBNORMAL_END: f32 = 0.015_625;

/// The last place of floats near 2^14 is 2^-9: adding this rounds to multiples of it.
const SUBNORMAL_STEPS: f32 = 16_384.0;

/// The value of an E4M3 code.
#[inline]
#[must_use]
pub fn decode(code: u8) -> f32 {
    E4M3_VALUES[usize::from(code)]
}

/// [`decode`] by arithmetic, for loops that become vectors: those have no table look-ups.
#[inline(always)]
pub(crate) fn decode_arithmetic(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7F);
    // Three mantissa bits, and an exponent rebiased from 7 to 127.
    let normal = (magnitude << 20) + (120 << 23);
    let subnormal = (magnitude as i32 as f32 * (1.0 / 512.0)).to_bits();
    let bits = if magnitude < 8 { subnormal } else { normal };
    let bits = if magnitude == 0x7F { f32::NAN.to_bits() } else { bits };
    f32::from_bits(bits | u32::from(code & 0x80) << 24)
}

/// The value of a UE8M0 byte: 2^(e - 127), NaN for 255.
#[inline]
#[must_use]
pub fn ue8m0_decode(e: u8) -> f32 {
    // e = 0 is 2^-127, a subnormal; 255 shifted into place would be an infinity.
    f32::from_bits(match e {
        0 => 0x0040_0000,
        255 => 0x7FC0_0000,
        e => u32::from(e) << 23,
    })
}

/// The UE8M0 byte of the smallest power of two that is not less than `x`, taken from the bits of
/// the float: one more than its exponent unless its mantissa is zero.
///
/// `x` must be positive. Subnormals count as at most 2^-126; a NaN, an infinity and what lies above
/// 2^127 give 255.
#[inline]
#[must_use]
pub fn ue8m0_ceil(x: f32) -> u8 {
    let bits = x.to_bits();
    let e = (bits >> 23 & 0xFF) + u32::from(bits & 0x7F_FFFF != 0);
    e.min(255) as u8
}

const fn e4m3_value(code: u8) -> f32 {
    let (exponent, mantissa) = (code as u32 >> 3 & 15, code as u32 & 7);
    let magnitude = if code & 0x7F == 0x7F {
        f32::NAN
    } else if exponent == 0 {
        mantissa as f32 / 512.0
    } else {
        f32::from_bits((exponent + 120) << 23 | mantissa << 20)
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips() {
        for code in 0..=255u8 {
            let value = decode(code);
            let same = decode_arithmetic(code).to_bits() == value.to_bits();
            assert!(same || value.is_nan() && decode_arithmetic(code).is_nan(), "{code:#x}");
            if value.is_nan() {
                assert_eq!(code & 0x7F, 0x7F);
            } else {
                assert_eq!(encode(value), code, "code {code:#x} = {value}");
            }
        }
        assert_eq!(decode(0x7E), E4M3_MAX);
        assert_eq!(decode(0x01), 2f32.powi(-9));
        assert_eq!(decode(0x38), 1.0);
    }

    /// Between neighbours a < b: below the middle gives a, above gives b, the middle the even code.
    #[test]
    fn rounds_to_nearest_even() {
        for code in 0..0x7Eu8 {
            let (a, b) = (decode(code), decode(code + 1));
            let middle = (a + b) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            for sign in [1.0, -1.0] {
                let top = if sign < 0.0 { 0x80 } else { 0 };
                assert_eq!(encode(sign * middle), top | even, "middle of {a} and {b}");
                assert_eq!(encode(sign * middle.next_down()), top | code);
                assert_eq!(encode(sign * middle.next_up()), top | (code + 1));
            }
        }
    }

    #[test]
    fn saturates_and_keeps_nan() {
        for x in [449.0, 464.0, 480.0, 1e30, f32::INFINITY] {
            assert_eq!((encode(x), encode(-x)), (0x7E, 0xFE));
        }
        assert_eq!(encode(f32::NAN) & 0x7F, 0x7F);
    }

    #[test]
    fn rounding_is_encoding_and_decoding() {
        let mut x = 1e-6f32;
        while x < 1e4 {
            for x in [x, -x] {
                assert_eq!(round(x).to_bits(), decode(encode(x)).to_bits(), "{x}");
            }
            x *= 1.000_37;
        }
        for x in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(round(x).to_bits(), decode(encode(x)).to_bits(), "{x}");
        }
        assert!(round(f32::NAN).is_nan() && round(f32::from_bits(0x7F80_0001)).is_nan());
    }

    #[test]
    fn scale_bytes() {
        assert_eq!(ue8m0_ceil(1.0), 127);
        assert_eq!(ue8m0_ceil(1f32.next_up()), 128);
        assert_eq!(ue8m0_ceil(f32::INFINITY), 255);
        assert_eq!(ue8m0_ceil(f32::MAX), 255);
        for e in 1..255u8 {
            assert_eq!(ue8m0_ceil(ue8m0_decode(e)), e);
        }
        assert_eq!(ue8m0_decode(0), 2f32.powi(-127));
        assert!(ue8m0_decode(255).is_nan());
    }
}
