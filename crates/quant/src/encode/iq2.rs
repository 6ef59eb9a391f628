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
pub(super) fn iq2_xxs(x: &[f32; 256], importance: &[f32; 256], out: &mut [u8; 66]) {
    let groups: [Group; 8] =
        std::array::from_fn(|g| Group::new(&x[32 * g..][..32], &importance[32 * g..][..32]));
    let steps = groups.each_ref().map(Group::best_step);
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
    fn new(groups: &[Group; 8], steps: &[f32; 8], d: f32) -> Self {
        let mut choice =
            Self { d: f16_saturating(d), scales: [0; 8], entries: [[0; 4]; 8], error: 0.0 };
        let d = choice.d.to_f32();
        for (g, group) in groups.iter().enumerate() {
            let ideal = if d > 0.0 { 4.0 * steps[g] / d - 0.5 } else { 0.0 };
            let middle = (ideal.clamp(0.0, SCALE_MAX) + 0.5) as i32;
            let mut best = f32::INFINITY;
            for s in [middle, middle - 1, middle + 1] {
                let s = s.clamp(0, SCALE_MAX as i32);
                let (error, entries) = group.choose(d * (0.5 + s as f32) * 0.25);
                if error < best {
                    best = error;
                    (choice.scales[g], choice.entries[g]) = (s as u8, entries);
                }
            }
            choice.error += f64::from(best);
        }
        choice
    }

    /// The d that fits the present scales and entries best.
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
    fn new(x: &[f32], w: &[f32]) -> Self {
        let (xs, ws) = (x.as_chunks::<8>().0, w.as_chunks::<8>().0);
        let vectors = std::array::from_fn(|v| Vector::new(&xs[v], &ws[v]));
        Self { vectors, amax: x.iter().fold(0.0, |m, v| m.max(v.abs())) }
    }

    /// The step that serves this group best on its own: a coarse scan of the plausible range, then
    /// least squares for the entries found.
    fn best_step(&self) -> f32 {
        /// From the largest weight at the largest magnitude down to where it overshoots by half.
        const SPANS: [f32; 9] = [1.1, 1.0, 0.92, 0.85, 0.78, 0.71, 0.64, 0.57, 0.5];
        let mut best = (0.0, 0.0);
        for span in SPANS {
            let step = self.amax * span / TOP;
            let (error, entries) = self.choose(step);
            if error < best.0 {
                best = (error, self.least_squares_step(entries).unwrap_or(step));
            }
        }
        best.1
    }

    /// The best entries at this step and their error.
    fn choose(&self, step: f32) -> (f32, [u8; 4]) {
        let mut error = 0.0;
        let entries = self.vectors.each_ref().map(|vector| {
            let (e, entry) = vector.choose(step);
            error += e;
            entry
        });
        (error, entries)
    }

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
    fn new(x: &[f32; 8], w: &[f32; 8]) -> Self {
        let mut negative = (0..8).fold(0u8, |m, i| m | u8::from(x[i] < 0.0) << i);
        let mut wa: [f32; 8] = std::array::from_fn(|i| w[i] * x[i].abs());
        if negative.count_ones() % 2 == 1 {
            // One sign must be wrong: where that costs least at equal magnitudes.
            let weakest = (0..8).fold(0, |best, i| if wa[i] < wa[best] { i } else { best });
            negative ^= 1 << weakest;
            wa[weakest] = -wa[weakest];
        }
        let (mut s, mut q) = ([0f32; 256], [0f32; 256]);
        for k in 0..8 {
            for (i, g) in COLUMNS[k].iter().enumerate() {
                s[i] += wa[k] * g;
                q[i] += w[k] * g * g;
            }
        }
        Self { negative, s, q }
    }

    fn choose(&self, step: f32) -> (f32, u8) {
        let (square, twice) = (step * step, 2.0 * step);
        let mut errors = [0f32; 256];
        for (e, (s, q)) in errors.iter_mut().zip(self.s.iter().zip(&self.q)) {
            *e = square * q - twice * s;
        }
        let least = least(&errors);
        let entry = errors.iter().position(|e| *e == least).unwrap_or(0);
        (least, entry as u8)
    }
}

/// The smallest of the errors, in eight lanes so that the compiler may use vectors.
fn least(errors: &[f32; 256]) -> f32 {
    let mut lanes = [f32::INFINITY; 8];
    for chunk in errors.as_chunks::<8>().0 {
        for (lane, e) in lanes.iter_mut().zip(chunk) {
            *lane = if *e < *lane { *e } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::INFINITY, f32::min)
}

/// The grid by component.
static COLUMNS: [[f32; 256]; 8] = {
    let mut columns = [[0.0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let entry = grids::IQ2_XXS[i].to_le_bytes();
        let mut k = 0;
        while k < 8 {
            columns[k][i] = entry[k] as f32;
            k += 1;
        }
        i += 1;
    }
    columns
};
