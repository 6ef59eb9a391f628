//! Rotary position embedding of the last channels of a vector (spec: model §3).

/// Frequencies of one rotation. Pairs are interleaved (2i, 2i+1) and sit at the vector's tail.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians per position, one per pair; kept in f64 so that a million positions stay exact.
    pub inv_freq: Vec<f64>,
}

impl Rope {
    /// Unscaled frequencies `base^(-2i/dim)`.
    pub fn plain(dim: usize, base: f64) -> Self {
        let inv_freq = (0..dim / 2).map(|i| base.powf(-((2 * i) as f64) / dim as f64)).collect();
        Self { inv_freq }
    }

    /// YaRN: high frequencies are kept, low ones divided by `factor`, a ramp between. V4 applies
    /// no magnitude scaling.
    pub fn yarn(
        dim: usize,
        base: f64,
        factor: f64,
        original_context: f64,
        beta_fast: f64,
        beta_slow: f64,
    ) -> Self {
        let correction = |rotations: f64| {
            let wavelengths = original_context / (rotations * 2.0 * std::f64::consts::PI);
            dim as f64 * wavelengths.ln() / (2.0 * base.ln())
        };
        let low = correction(beta_fast).floor().max(0.0);
        let mut high = correction(beta_slow).ceil().min(dim as f64 - 1.0);
        if low == high {
            high += 0.001;
        }
        let mut rope = Self::plain(dim, base);
        for (i, freq) in rope.inv_freq.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            *freq = *freq * (1.0 - ramp) + *freq / factor * ramp;
        }
        rope
    }

    /// Rotated channels.
    pub fn dim(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Cosine and sine of pair `pair` at position `pos`; the angle is formed in f64.
    pub fn cos_sin(&self, pair: usize, pos: u32) -> (f32, f32) {
        let (sin, cos) = (f64::from(pos) * self.inv_freq[pair]).sin_cos();
        (cos as f32, sin as f32)
    }

    /// Rotates the tail of `x` for position `pos`, or back when `inverse`.
    pub fn rotate_tail(&self, x: &mut [f32], pos: u32, inverse: bool) {
        let start = x.len() - self.dim();
        for (pair, ab) in x[start..].chunks_exact_mut(2).enumerate() {
            let (cos, sin) = self.cos_sin(pair, pos);
            let sin = if inverse { -sin } else { sin };
            let (a, b) = (ab[0], ab[1]);
            ab[0] = a * cos - b * sin;
            ab[1] = a * sin + b * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_keeps_fast_pairs_and_slows_slow_ones() {
        let plain = Rope::plain(64, 160_000.0);
        let yarn = Rope::yarn(64, 160_000.0, 16.0, 65_536.0, 32.0, 1.0);
        // The ramp of the published models runs from pair 15 to pair 25.
        assert_eq!(plain.inv_freq[15], yarn.inv_freq[15]);
        assert!(yarn.inv_freq[16] < plain.inv_freq[16]);
        assert!((yarn.inv_freq[25] - plain.inv_freq[25] / 16.0).abs() < 1e-18);
    }

    #[test]
    fn inverse_undoes_rotation() {
        let rope = Rope::plain(4, 10_000.0);
        let mut x = [9.0, 1.0, -2.0, 0.5, 3.0];
        rope.rotate_tail(&mut x, 777, false);
        assert_eq!(x[0], 9.0);
        rope.rotate_tail(&mut x, 777, true);
        for (got, want) in x.iter().zip([9.0, 1.0, -2.0, 0.5, 3.0]) {
            assert!((got - want).abs() < 1e-6);
        }
    }
}
