//! Q2_K and Q4_K: sub-blocks with a scale and a minimum of few bits under two shared half-precision
//! factors.
//!
//! A weight is stored as `d·scale·q - dmin·min`. The search minimises the weighted squared error in
//! three steps: each sub-block alone in real numbers (nearest codes and least squares in turn, from
//! several starting ranges), then the small integers around the best scales and minima, then both
//! shared factors by least squares over the whole block.

use super::f16_saturating;

/// `[d: f16, dmin: f16, scales: 12, qs: 128]`; the decoder describes the packing.
#[inline(always)]
pub(super) fn q4_k(x: &[f32; 256], importance: &[f32; 256], out: &mut [u8; 144]) {
    const STARTS: [f32; 3] = [1.0, 0.92, 0.84];
    let fit = Fit::<8, 32>::new(x, importance, &Grid { code_max: 15.0, level_max: 63.0 }, &STARTS);
    out[..2].copy_from_slice(&fit.d.to_le_bytes());
    out[2..4].copy_from_slice(&fit.dmin.to_le_bytes());
    let (scales, mins) = (fit.scales.map(|v| v as u8), fit.mins.map(|v| v as u8));
    for i in 0..4 {
        out[4 + i] = scales[i] | scales[i + 4] >> 4 << 6;
        out[8 + i] = mins[i] | mins[i + 4] >> 4 << 6;
        out[12 + i] = (scales[i + 4] & 15) | (mins[i + 4] & 15) << 4;
    }
    for (i, q) in out[16..].iter_mut().enumerate() {
        let (pair, column) = (i / 32, i % 32);
        *q = fit.codes[64 * pair + column] as u8 | (fit.codes[64 * pair + 32 + column] as u8) << 4;
    }
}

/// `[scales: 16, qs: 64, d: f16, dmin: f16]`; the decoder describes the packing.
#[inline(always)]
pub(super) fn q2_k(x: &[f32; 256], importance: &[f32; 256], out: &mut [u8; 84]) {
    const STARTS: [f32; 5] = [1.0, 0.9, 0.8, 0.7, 0.6];
    let fit = Fit::<16, 16>::new(x, importance, &Grid { code_max: 3.0, level_max: 15.0 }, &STARTS);
    for s in 0..16 {
        out[s] = fit.scales[s] as u8 | (fit.mins[s] as u8) << 4;
    }
    for i in 0..64 {
        let code = |run: usize| fit.codes[i / 32 * 128 + 32 * run + i % 32] as u8;
        out[16 + i] = code(0) | code(1) << 2 | code(2) << 4 | code(3) << 6;
    }
    out[80..82].copy_from_slice(&fit.d.to_le_bytes());
    out[82..].copy_from_slice(&fit.dmin.to_le_bytes());
}

/// Largest code of a weight, and largest scale and minimum of a sub-block.
struct Grid {
    code_max: f32,
    level_max: f32,
}

/// A block of `N` sub-blocks of `LEN` weights; all integers are kept as floats until they are
/// packed.
#[derive(Clone)]
struct Fit<const N: usize, const LEN: usize> {
    d: half::f16,
    dmin: half::f16,
    scales: [f32; N],
    mins: [f32; N],
    codes: [f32; 256],
    error: f64,
}

impl<const N: usize, const LEN: usize> Fit<N, LEN> {
    #[inline(always)]
    fn new(x: &[f32; 256], w: &[f32; 256], grid: &Grid, starts: &[f32]) -> Self {
        // A loop instead of an iterator: a closure would not be compiled for wide vectors.
        let mut real = [(0.0, 0.0); N];
        for s in 0..N {
            real[s] = fit_sub_block(Self::part(x, s), Self::part(w, s), grid.code_max, starts);
        }
        let top = |v: [f32; N]| v.into_iter().fold(0.0, f32::max) / grid.level_max;
        let (d, dmin) = (top(real.map(|r| r.0)), top(real.map(|r| r.1)));
        let (d, dmin) = (f16_saturating(d), f16_saturating(dmin));
        let level = |v: f32, d: half::f16| if d.to_f32() > 0.0 { v / d.to_f32() } else { 0.0 };
        let mut best = Self {
            d,
            dmin,
            scales: real.map(|r| nearest(level(r.0, d), grid.level_max)),
            mins: real.map(|r| nearest(level(r.1, dmin), grid.level_max)),
            codes: [0.0; 256],
            error: f64::INFINITY,
        };
        best.search_levels(x, w, grid);
        for _ in 0..2 {
            let mut next = best.clone();
            next.solve_factors(x, w);
            next.search_levels(x, w, grid);
            if next.error >= best.error {
                break;
            }
            best = next;
        }
        best
    }

    /// Sub-block `s` of the 256 values of a block.
    #[inline(always)]
    fn part(x: &[f32; 256], s: usize) -> &[f32; LEN] {
        &x.as_chunks().0[s]
    }

    /// Picks each sub-block's scale and minimum among the neighbours of the present ones, with the
    /// nearest codes.
    #[inline(always)]
    fn search_levels(&mut self, x: &[f32; 256], w: &[f32; 256], grid: &Grid) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        self.error = 0.0;
        for s in 0..N {
            let (x, w) = (Self::part(x, s), Self::part(w, s));
            let mut best = (f32::INFINITY, 0.0, 0.0);
            for (ds, dm) in NEIGHBOURS {
                let scale = (self.scales[s] + ds).clamp(0.0, grid.level_max);
                let min = (self.mins[s] + dm).clamp(0.0, grid.level_max);
                let error = affine_error(x, w, (d * scale, dmin * min), grid.code_max);
                if error < best.0 {
                    best = (error, scale, min);
                }
            }
            self.error += f64::from(best.0);
            (self.scales[s], self.mins[s]) = (best.1, best.2);
            let (scale, min) = (d * best.1, dmin * best.2);
            let inverse = inverse(scale);
            for (q, x) in self.codes[s * LEN..].iter_mut().zip(x) {
                *q = nearest((x + min) * inverse, grid.code_max);
            }
        }
    }

    /// The least-squares d and dmin for the present codes and levels.
    #[inline(always)]
    fn solve_factors(&mut self, x: &[f32; 256], w: &[f32; 256]) {
        // x ≈ d a - dmin b with a = scale · q and b = min.
        let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0f64, 0f64, 0f64, 0f64, 0f64);
        for i in 0..256 {
            let s = i / LEN;
            let (a, b) = (f64::from(self.scales[s] * self.codes[i]), f64::from(self.mins[s]));
            let (x, w) = (f64::from(x[i]), f64::from(w[i]));
            aa += w * a * a;
            ab += w * a * b;
            bb += w * b * b;
            ax += w * a * x;
            bx += w * b * x;
        }
        let determinant = aa * bb - ab * ab;
        let (d, dmin) = if determinant > 1e-9 * aa * bb {
            ((bb * ax - ab * bx) / determinant, (ab * ax - aa * bx) / determinant)
        } else if aa > 0.0 {
            (ax / aa, 0.0)
        } else {
            return;
        };
        if d > 0.0 && dmin >= 0.0 {
            (self.d, self.dmin) = (f16_saturating(d as f32), f16_saturating(dmin as f32));
        }
    }
}

/// Steps of a scale and of a minimum that are tried around the present pair.
const NEIGHBOURS: [(f32, f32); 9] = [
    (0.0, 0.0),
    (-1.0, 0.0),
    (1.0, 0.0),
    (0.0, -1.0),
    (0.0, 1.0),
    (-1.0, -1.0),
    (1.0, 1.0),
    (-1.0, 1.0),
    (1.0, -1.0),
];

/// The real scale and minimum (`x ≈ scale·q - min`, both non-negative) that serve one sub-block
/// best: from each start, a range shrunk by that factor, codes and least squares are taken in turn.
#[inline(always)]
fn fit_sub_block<const LEN: usize>(
    x: &[f32; LEN],
    w: &[f32; LEN],
    code_max: f32,
    starts: &[f32],
) -> (f32, f32) {
    /// Rounds of codes and least squares; later ones change almost nothing.
    const ROUNDS: usize = 3;
    let low = x.iter().fold(0f32, |m, v| m.min(*v));
    let high = x.iter().fold(0f32, |m, v| m.max(*v));
    let mut best = (f32::INFINITY, 0.0, -low);
    for start in starts {
        let (mut scale, mut min) = ((high - low) * start / code_max, -low * start);
        for round in 0..=ROUNDS {
            let error = affine_error(x, w, (scale, min), code_max);
            if error < best.0 {
                best = (error, scale, min);
            }
            if round < ROUNDS {
                match least_squares(x, w, (scale, min), code_max) {
                    Some(next) => (scale, min) = next,
                    None => break,
                }
            }
        }
    }
    (best.1, best.2)
}

/// The scale and minimum that fit the codes which `(scale, min)` chooses; `None` when those codes
/// leave nothing to solve for.
#[inline(always)]
fn least_squares<const LEN: usize>(
    x: &[f32; LEN],
    w: &[f32; LEN],
    (scale, min): (f32, f32),
    code_max: f32,
) -> Option<(f32, f32)> {
    let inverse = inverse(scale);
    let mut sums = [[0f32; LANES]; 5];
    for (x, w) in lanes(x).iter().zip(lanes(w)) {
        for l in 0..LANES {
            let q = nearest((x[l] + min) * inverse, code_max);
            let (wx, wq) = (w[l] * x[l], w[l] * q);
            sums[0][l] += w[l];
            sums[1][l] += wq;
            sums[2][l] += wq * q;
            sums[3][l] += wx;
            sums[4][l] += wx * q;
        }
    }
    let [sw, sq, sqq, sx, sqx] = sums.map(|s| s.iter().sum::<f32>());
    let determinant = sw * sqq - sq * sq;
    if determinant <= 1e-6 * sw * sqq {
        return None;
    }
    let scale = (sw * sqx - sq * sx) / determinant;
    let min = (sq * sqx - sqq * sx) / determinant;
    // A minimum cannot lie above zero: without one, the scale alone is fitted.
    let (scale, min) = if min < 0.0 { (sqx / sqq, 0.0) } else { (scale, min) };
    (scale > 0.0).then_some((scale, min))
}

/// Weighted squared error of the nearest codes.
#[inline(always)]
fn affine_error<const LEN: usize>(
    x: &[f32; LEN],
    w: &[f32; LEN],
    (scale, min): (f32, f32),
    code_max: f32,
) -> f32 {
    let inverse = inverse(scale);
    let mut sums = [0f32; LANES];
    for (x, w) in lanes(x).iter().zip(lanes(w)) {
        for l in 0..LANES {
            let q = nearest((x[l] + min) * inverse, code_max);
            let e = scale * q - min - x[l];
            sums[l] += w[l] * e * e;
        }
    }
    sums.iter().sum()
}

/// Sums run in so many lanes, which makes them vectors and keeps their order on every machine.
const LANES: usize = 8;

#[inline(always)]
fn lanes<const LEN: usize>(x: &[f32; LEN]) -> &[[f32; LANES]] {
    x.as_chunks().0
}

#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

/// `v` rounded to an integer of 0..=`max`, ties to even.
#[inline(always)]
fn nearest(v: f32, max: f32) -> f32 {
    /// Above 2^23 the last place of a float is 1, so adding this rounds.
    const ROUND: f32 = 8_388_608.0;
    (v.clamp(0.0, max) + ROUND) - ROUND
}
