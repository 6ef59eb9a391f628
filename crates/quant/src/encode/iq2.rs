//! IQ2_XXS: eight weights at a time become a grid vector with signs of even parity; 32 share a
//! four-bit scale.
//!
//! The weighted squared error of entry g at step t is, up to a constant, `t² Q - 2 t S` with
//! `Q = Σ w g²` and `S = Σ w a g`. Neither depends on the step, so both are computed once for all
//! 256 entries, and trying another step costs a scan over two arrays.

use super::f16_saturating;
use crate::grids;

/// Step of scale s is `d (1/2 + s) / 4`.
const SCALE_MAX: f32 = 15.0;

/// The largest grid magnitude.
const TOP: f32 = 43.0;

/// `[d: f16, 8 x (indices: 4, rest: u32)]`; the decoder describes the packing.
#[inline(always)]
pub(super) fn iq2_xxs(x: &[f32; 256], importance: &[f32; 256], out: &mut [u8; 66]) {
    // Loops instead of iterators over arrays: closures would not be compiled for wide vectors.
    let mut groups = [const { Group::EMPTY }; 8];
    let mut steps = [0.0; 8];
    for g in 0..8 {
        groups[g].fill(&x[32 * g..][..32], &importance[32 * g..][..32]);
        steps[g] = groups[g].best_step();
    }
    let largest = steps.iter().copied().fold(0.0, f32::max);
    let mut best = Choice::new(&groups, &steps, largest * 4.0 / (SCALE_MAX + 0.5));
    for _ in 0..2 {
        let next = Choice::new(&groups, &steps, best.least_squares_d(&groups));
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    out[..2].copy_from_slice(&best.d.to_le_bytes());
    for (g, bytes) in out[2..].as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mut rest = u32::from(best.scales[g]) << 28;
        for (v, vector) in groups[g].vectors.iter().enumerate() {
            bytes[v] = best.entries[g][v];
            rest |= u32::from(vector.negative & 127) << (7 * v);
        }
        bytes[4..].copy_from_slice(&rest.to_le_bytes());
    }
}

/// One way to store a block.
struct Choice {
    d: half::f16,
    scales: [u8; 8],
    entries: [[u8; 4]; 8],
    /// Up to a constant of the block.
    error: f64,
}

impl Choice {
    /// The best scales and entries for this d, near the steps that the groups would like.
    #[inline(always)]
    fn new(groups: &[Group; 8], steps: &[f32; 8], d: f32) -> Self {
        let mut choice =
            Self { d: f16_saturating(d), scales: [0; 8], entries: [[0; 4]; 8], error: 0.0 };
        let d = choice.d.to_f32();
        for (g, group) in groups.iter().enumerate() {
            let ideal = if d > 0.0 { 4.0 * steps[g] / d - 0.5 } else { 0.0 };
            let middle = (ideal.clamp(0.0, SCALE_MAX) + 0.5) as i32;
            let step = |s: i32| d * (0.5 + s as f32) * 0.25;
            let (mut best, mut scale) = (f32::INFINITY, middle);
            for s in [middle, middle - 1, middle + 1] {
                let s = s.clamp(0, SCALE_MAX as i32);
                let error = group.error(step(s));
                if error < best {
                    (best, scale) = (error, s);
                }
            }
            choice.scales[g] = scale as u8;
            choice.entries[g] = group.entries(step(scale));
            choice.error += f64::from(best);
        }
        choice
    }

    /// The d that fits the present scales and entries best.
    #[inline(always)]
    fn least_squares_d(&self, groups: &[Group; 8]) -> f32 {
        let (mut s, mut q) = (0f64, 0f64);
        for (g, group) in groups.iter().enumerate() {
            let unit = (0.5 + f64::from(self.scales[g])) * 0.25;
            for (vector, &entry) in group.vectors.iter().zip(&self.entries[g]) {
                s += unit * f64::from(vector.s[usize::from(entry)]);
                q += unit * unit * f64::from(vector.q[usize::from(entry)]);
            }
        }
        if q > 0.0 && s > 0.0 { (s / q) as f32 } else { self.d.to_f32() }
    }
}

/// 32 weights with a common scale.
struct Group {
    vectors: [Vector; 4],
    amax: f32,
}

impl Group {
    const EMPTY: Self = Self { vectors: [const { Vector::EMPTY }; 4], amax: 0.0 };

    #[inline(always)]
    fn fill(&mut self, x: &[f32], w: &[f32]) {
        let (xs, ws) = (x.as_chunks().0, w.as_chunks().0);
        for v in 0..4 {
            self.vectors[v].fill(&xs[v], &ws[v]);
        }
        self.amax = x.iter().fold(0.0, |m, v| m.max(v.abs()));
    }

    /// The step that serves this group best on its own: a coarse scan of the plausible range, then
    /// least squares for the entries found.
    #[inline(always)]
    fn best_step(&self) -> f32 {
        /// From the largest weight at the largest magnitude down to where it overshoots by half.
        const SPANS: [f32; 9] = [1.1, 1.0, 0.92, 0.85, 0.78, 0.71, 0.64, 0.57, 0.5];
        let mut best = (0.0, 0.0);
        for span in SPANS {
            let step = self.amax * span / TOP;
            let error = self.error(step);
            if error < best.0 {
                best = (error, step);
            }
        }
        self.least_squares_step(self.entries(best.1)).unwrap_or(best.1)
    }

    /// The error of the best entries at this step.
    #[inline(always)]
    fn error(&self, step: f32) -> f32 {
        let mut error = 0.0;
        for v in 0..4 {
            error += self.vectors[v].error(step);
        }
        error
    }

    /// The best entries at this step.
    #[inline(always)]
    fn entries(&self, step: f32) -> [u8; 4] {
        let mut entries = [0; 4];
        for v in 0..4 {
            entries[v] = self.vectors[v].entry(step);
        }
        entries
    }

    #[inline(always)]
    fn least_squares_step(&self, entries: [u8; 4]) -> Option<f32> {
        let of = |values: fn(&Vector) -> &[f32; 256]| -> f32 {
            let pairs = self.vectors.iter().zip(entries);
            pairs.map(|(vector, entry)| values(vector)[usize::from(entry)]).sum()
        };
        let (s, q) = (of(|v| &v.s), of(|v| &v.q));
        (s > 0.0 && q > 0.0).then(|| s / q)
    }
}

/// Eight weights: their signs and, for every grid entry, the two sums of the error.
struct Vector {
    negative: u8,
    s: [f32; 256],
    q: [f32; 256],
}

impl Vector {
    const EMPTY: Self = Self { negative: 0, s: [0.0; 256], q: [0.0; 256] };

    #[inline(always)]
    fn fill(&mut self, x: &[f32; 8], w: &[f32; 8]) {
        let mut wa = [0.0; 8];
        let mut negative = 0u8;
        for k in 0..8 {
            negative |= u8::from(x[k] < 0.0) << k;
            wa[k] = w[k] * x[k].abs();
        }
        if negative.count_ones() % 2 == 1 {
            // One sign must be wrong: where that costs least at equal magnitudes.
            let weakest = (0..8).fold(0, |best, i| if wa[i] < wa[best] { i } else { best });
            negative ^= 1 << weakest;
            wa[weakest] = -wa[weakest];
        }
        self.negative = negative;
        for i in 0..256 {
            let (mut s, mut q) = (0.0, 0.0);
            for k in 0..8 {
                s += wa[k] * COLUMNS[k][i];
                q += w[k] * SQUARES[k][i];
            }
            (self.s[i], self.q[i]) = (s, q);
        }
    }

    /// The least error at this step.
    #[inline(always)]
    fn error(&self, step: f32) -> f32 {
        /// Entries are compared in so many lanes, which makes them vectors.
        const LANES: usize = 16;
        let (square, twice) = (step * step, 2.0 * step);
        let mut lanes = [f32::INFINITY; LANES];
        let (s, q) = (self.s.as_chunks::<LANES>().0, self.q.as_chunks::<LANES>().0);
        for row in 0..256 / LANES {
            for l in 0..LANES {
                let error = square * q[row][l] - twice * s[row][l];
                lanes[l] = if error < lanes[l] { error } else { lanes[l] };
            }
        }
        let mut least = lanes[0];
        for l in 1..LANES {
            least = if lanes[l] < least { lanes[l] } else { least };
        }
        least
    }

    /// The first entry with the least error at this step.
    #[inline(always)]
    fn entry(&self, step: f32) -> u8 {
        let (square, twice) = (step * step, 2.0 * step);
        let least = self.error(step);
        let error = |(s, q): (&f32, &f32)| square * q - twice * s;
        let found = self.s.iter().zip(&self.q).position(|pair| error(pair) == least);
        found.unwrap_or(0) as u8
    }
}

/// The grid by component.
static COLUMNS: [[f32; 256]; 8] = columns(false);

/// The squares of [`COLUMNS`].
static SQUARES: [[f32; 256]; 8] = columns(true);

const fn columns(squared: bool) -> [[f32; 256]; 8] {
    let mut columns = [[0.0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let entry = grids::IQ2_XXS[i].to_le_bytes();
        let mut k = 0;
        while k < 8 {
            let g = entry[k] as f32;
            columns[k][i] = if squared { g * g } else { g };
            k += 1;
        }
        i += 1;
    }
    columns
}
