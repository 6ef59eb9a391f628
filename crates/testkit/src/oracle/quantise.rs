//! The quantisers of the golden files: simple, deterministic, and fixed for ever.
//!
//! The golden outputs were computed from weights that these made. They are not the quantisers that
//! the engine offers; those may improve. All arithmetic is in double precision with ties to even;
//! scales round through single to half precision.

use std::sync::LazyLock;

use quant::{TensorType, grids};

/// Encodes whole rows as blocks of `ty`.
pub(super) fn quantise(ty: TensorType, x: &[f32]) -> Vec<u8> {
    match ty {
        // One rounding per weight: there is nothing to choose.
        TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q8_0 => {
            let bytes = ty.row_bytes(x.len()).expect("whole blocks");
            let mut out = vec![0; bytes];
            quant::encode(ty, x, &mut out).expect("finite weights");
            out
        }
        TensorType::Q4K => each_block::<256, 144>(x, q4_k),
        TensorType::Q2K => each_block::<256, 84>(x, q2_k),
        TensorType::Iq2Xxs => each_block::<256, 66>(x, iq2_xxs),
        TensorType::Mxfp4 => each_block::<32, 17>(x, mxfp4),
        _ => panic!("the oracle has no {ty} quantiser"),
    }
}

fn each_block<const LEN: usize, const BYTES: usize>(
    x: &[f32],
    block: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) -> Vec<u8> {
    let (blocks, tail) = x.as_chunks::<LEN>();
    assert!(tail.is_empty(), "whole blocks of {LEN}");
    let mut out = vec![[0; BYTES]; blocks.len()];
    for (x, out) in blocks.iter().zip(&mut out) {
        block(x, out);
    }
    out.into_flattened()
}

/// Sub-blocks of `LEN` weights, `N` of them, each with a scale and a minimum of few bits.
struct Affine<const N: usize> {
    d: half::f16,
    dmin: half::f16,
    scales: [u8; N],
    mins: [u8; N],
    /// One code a weight.
    codes: [u8; 256],
}

impl<const N: usize> Affine<N> {
    /// Codes 0..=`code_max`, scales and minima 0..=`scale_max`.
    fn new(x: &[f32; 256], code_max: f64, scale_max: f64) -> Self {
        let len = 256 / N;
        let sub = |s: usize| x[s * len..(s + 1) * len].iter().map(|&v| f64::from(v));
        let min: [f64; N] = std::array::from_fn(|s| sub(s).fold(0.0, f64::min));
        let range: [f64; N] =
            std::array::from_fn(|s| (sub(s).fold(f64::NEG_INFINITY, f64::max) - min[s]) / code_max);
        let d = f16(range.iter().copied().fold(f64::NEG_INFINITY, f64::max) / scale_max);
        let dmin = f16(-min.iter().copied().fold(f64::INFINITY, f64::min) / scale_max);
        let code = |v: f64, d: half::f16, max: f64| {
            (v / or_one(d.to_f64())).round_ties_even().clamp(0.0, max) as u8
        };
        let scales: [u8; N] = std::array::from_fn(|s| code(range[s], d, scale_max));
        let mins: [u8; N] = std::array::from_fn(|s| code(-min[s], dmin, scale_max));
        let codes = std::array::from_fn(|i| {
            let s = i / len;
            let step = d.to_f64() * f64::from(scales[s]);
            let offset = dmin.to_f64() * f64::from(mins[s]);
            let q = (f64::from(x[i]) + offset) / or_one(step);
            q.round_ties_even().clamp(0.0, code_max) as u8
        });
        Self { d, dmin, scales, mins, codes }
    }
}

fn q4_k(x: &[f32; 256], out: &mut [u8; 144]) {
    let a = Affine::<8>::new(x, 15.0, 63.0);
    out[..2].copy_from_slice(&a.d.to_le_bytes());
    out[2..4].copy_from_slice(&a.dmin.to_le_bytes());
    for i in 0..4 {
        out[4 + i] = a.scales[i] | a.scales[i + 4] >> 4 << 6;
        out[8 + i] = a.mins[i] | a.mins[i + 4] >> 4 << 6;
        out[12 + i] = (a.scales[i + 4] & 15) | (a.mins[i + 4] & 15) << 4;
    }
    for (i, q) in out[16..].iter_mut().enumerate() {
        let (pair, column) = (i / 32, i % 32);
        *q = a.codes[64 * pair + column] | a.codes[64 * pair + 32 + column] << 4;
    }
}

fn q2_k(x: &[f32; 256], out: &mut [u8; 84]) {
    let a = Affine::<16>::new(x, 3.0, 15.0);
    for s in 0..16 {
        out[s] = a.scales[s] | a.mins[s] << 4;
    }
    for i in 0..64 {
        let (half, column) = (i / 32, i % 32);
        let code = |run: usize| a.codes[128 * half + 32 * run + column];
        out[16 + i] = code(0) | code(1) << 2 | code(2) << 4 | code(3) << 6;
    }
    out[80..82].copy_from_slice(&a.d.to_le_bytes());
    out[82..].copy_from_slice(&a.dmin.to_le_bytes());
}

fn iq2_xxs(x: &[f32; 256], out: &mut [u8; 66]) {
    /// The largest grid magnitude, and how much of the range it should cover.
    const TOP: f64 = 43.0;
    const COVER: f64 = 0.95;
    let want: [f64; 8] = std::array::from_fn(|g| {
        let run = x[32 * g..32 * (g + 1)].iter();
        run.map(|v| f64::from(v.abs())).fold(0.0, f64::max) / TOP * COVER
    });
    let d = f16(want.iter().copied().fold(0.0, f64::max) * 4.0 / 15.5);
    out[..2].copy_from_slice(&d.to_le_bytes());
    for (g, want) in want.iter().enumerate() {
        let s = (want * 4.0 / or_one(d.to_f64()) - 0.5).round_ties_even().clamp(0.0, 15.0);
        let step = or_one(d.to_f64() * (0.5 + s) * 0.25);
        let mut rest = (s as u32) << 28;
        for v in 0..4 {
            let part: &[f32; 8] = x[32 * g + 8 * v..].first_chunk().expect("eight weights");
            let (negative, magnitudes) = even_signs(part);
            rest |= u32::from(negative & 127) << (7 * v);
            out[2 + 8 * g + v] = nearest(&magnitudes.map(|m| m / step));
        }
        out[2 + 8 * g + 4..][..4].copy_from_slice(&rest.to_le_bytes());
    }
}

/// Signs with an even number of minuses, and the weights times those signs: where the parity is odd
/// the weakest weight takes the wrong sign.
fn even_signs(x: &[f32; 8]) -> (u8, [f64; 8]) {
    let mut negative = 0u8;
    let mut weakest = 0;
    for i in 0..8 {
        negative |= u8::from(x[i] < 0.0) << i;
        if x[i].abs() < x[weakest].abs() {
            weakest = i;
        }
    }
    if negative.count_ones() % 2 == 1 {
        negative ^= 1 << weakest;
    }
    let signed = |i: usize| {
        let v = f64::from(x[i]);
        if negative >> i & 1 == 1 { -v } else { v }
    };
    (negative, std::array::from_fn(signed))
}

/// The grid entry nearest to `v`.
///
/// Weights are multiples of one step, so entries often tie exactly but for rounding: |g|² - 2 v·g
/// is summed in double precision as a chain of fused multiply-adds, as matrix libraries do, because
/// its last bit decides. A pass in single precision narrows the choice first.
fn nearest(v: &[f64; 8]) -> u8 {
    /// Above the rounding error of the first pass: eight terms below 2^13, each good to 2^-11.
    const CLOSE: f32 = 0.1;
    let grid = &*GRID;
    let mut rough = grid.squares;
    for (v, column) in v.iter().zip(&grid.columns) {
        let twice = 2.0 * *v as f32;
        for (score, g) in rough.iter_mut().zip(column) {
            *score -= twice * g;
        }
    }
    let close = rough.iter().copied().fold(f32::INFINITY, f32::min) + CLOSE;
    let mut best = (f64::INFINITY, 0);
    for (i, _) in rough.iter().enumerate().filter(|(_, score)| **score <= close) {
        let entry = grids::IQ2_XXS[i].to_le_bytes();
        let dot = v.iter().zip(entry).fold(0.0, |dot, (v, g)| (2.0 * v).mul_add(f64::from(g), dot));
        let score = f64::from(grid.squares[i]) - dot;
        if score < best.0 {
            best = (score, i as u8);
        }
    }
    best.1
}

/// The IQ2_XXS grid by component, and the entries' squared lengths (all exact).
struct Grid {
    columns: [[f32; 256]; 8],
    squares: [f32; 256],
}

static GRID: LazyLock<Grid> = LazyLock::new(|| {
    let component = |k: usize, i: usize| f32::from(grids::IQ2_XXS[i].to_le_bytes()[k]);
    Grid {
        columns: std::array::from_fn(|k| std::array::from_fn(|i| component(k, i))),
        squares: std::array::from_fn(|i| (0..8).map(|k| component(k, i).powi(2)).sum()),
    }
});

/// The exponent that puts the largest magnitude in [4, 8), and the nearest code to each weight, the
/// first in code order among equals: the rule of the `gguf` package.
fn mxfp4(x: &[f32; 32], out: &mut [u8; 17]) {
    const DOUBLED: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let e = if amax > 0.0 { (amax.log2().floor() + 125.0) as u8 } else { 0 };
    let half_scale = 2f64.powi(i32::from(e) - 128) as f32;
    let code = |v: f32| {
        let mut best = (f32::INFINITY, 0);
        for (c, level) in DOUBLED.iter().enumerate() {
            let error = (half_scale * level - v.abs()).abs();
            if error < best.0 {
                best = (error, c as u8);
            }
        }
        // Zero has one code: the positive one comes first.
        if v < 0.0 && best.1 != 0 { best.1 | 8 } else { best.1 }
    };
    out[0] = e;
    for i in 0..16 {
        out[1 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}

/// Half precision by way of single precision: two roundings.
fn f16(x: f64) -> half::f16 {
    half::f16::from_f32(x as f32)
}

fn or_one(x: f64) -> f64 {
    if x > 0.0 { x } else { 1.0 }
}
