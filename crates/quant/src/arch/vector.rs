//! Elementwise kernels in plain Rust. Each table compiles them for its own instructions; no sum
//! crosses lanes but in a fixed order, so that all give the same bits.

use crate::dot::Expand;

/// e^x to about one unit in the last place; 0 below -87.3, infinity above 88.7.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and Cephes' polynomial for `e^r`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r * r, r) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let y = p * f32::from_bits(exponent);
    let y = if x < -87.3 { 0.0 } else { y };
    if x > 88.7 { f32::INFINITY } else { y }
}

/// `x = e^(x - max)`; returns the sum, taken in eight lanes as the float law says.
#[inline(always)]
pub(crate) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0f32; 8];
    let add = |lanes: &mut [f32; 8], group: &[f32]| {
        lanes.iter_mut().zip(group).for_each(|(lane, v)| *lane += v);
    };
    // Two groups at a time, for vectors of sixteen.
    let (pairs, rest) = x.as_chunks_mut::<16>();
    for pair in pairs {
        pair.iter_mut().for_each(|v| *v = exp(*v - max));
        pair.as_chunks::<8>().0.iter().for_each(|group| add(&mut lanes, group));
    }
    for group in rest.chunks_mut(8) {
        group.iter_mut().for_each(|v| *v = exp(*v - max));
        add(&mut lanes, group);
    }
    let l = lanes;
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// `x *= scale`; returns the largest product, or `least` if that is larger.
#[inline(always)]
pub(crate) fn scale_max(x: &mut [f32], scale: f32, least: f32) -> f32 {
    let mut lanes = [least; 8];
    let (groups, last) = x.as_chunks_mut::<8>();
    for group in groups {
        for (lane, v) in lanes.iter_mut().zip(group) {
            *v *= scale;
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    for (lane, v) in lanes.iter_mut().zip(last) {
        *v *= scale;
        *lane = if *v > *lane { *v } else { *lane };
    }
    lanes.into_iter().fold(least, f32::max)
}

/// See [`Kernels::expand`](crate::dot::Kernels::expand).
#[inline(always)]
pub(crate) fn expand(last: &Expand<'_>, streams: &mut [f32]) {
    let hidden = last.y.len();
    let mut whole = 0;
    if last.post.len() == 4 {
        whole = hidden - hidden % CHANNELS;
        // No iterator's closure: it would be compiled for less than the table's instructions.
        let mut first = 0;
        while first < whole {
            expand_wide::<4>(last, first, streams);
            first += CHANNELS;
        }
    }
    (whole..hidden).for_each(|i| expand_one(last, i, streams));
}

/// Channels of all streams that are in registers together.
const CHANNELS: usize = 16;

#[inline(always)]
fn expand_wide<const N: usize>(last: &Expand<'_>, first: usize, streams: &mut [f32]) {
    let Expand { y, post, comb } = last;
    let hidden = y.len();
    let mut old = [[0f32; CHANNELS]; N];
    for (j, old) in old.iter_mut().enumerate() {
        old.copy_from_slice(&streams[j * hidden + first..][..CHANNELS]);
    }
    let mut own = [0f32; CHANNELS];
    own.copy_from_slice(&y[first..][..CHANNELS]);
    for k in 0..N {
        let mut mixed = [0f32; CHANNELS];
        for i in 0..CHANNELS {
            mixed[i] = comb[k] * old[0][i];
        }
        for j in 1..N {
            for i in 0..CHANNELS {
                mixed[i] += comb[j * N + k] * old[j][i];
            }
        }
        for i in 0..CHANNELS {
            mixed[i] += post[k] * own[i];
        }
        streams[k * hidden + first..][..CHANNELS].copy_from_slice(&mixed);
    }
}

/// Channel `i` of all streams.
#[inline(always)]
pub(crate) fn expand_one(last: &Expand<'_>, i: usize, streams: &mut [f32]) {
    let Expand { y, post, comb } = last;
    let (n, hidden) = (post.len(), y.len());
    let mut old = [0f32; Expand::STREAMS_MAX];
    for (j, old) in old[..n].iter_mut().enumerate() {
        *old = streams[j * hidden + i];
    }
    for k in 0..n {
        let mut mixed = comb[k] * old[0];
        for j in 1..n {
            mixed += comb[j * n + k] * old[j];
        }
        streams[k * hidden + i] = post[k] * y[i] + mixed;
    }
}

/// `gate = scale * silu(min(gate, clamp)) * clamp(up, ±clamp)`.
#[inline(always)]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32], clamp: f32, scale: f32) {
    for (g, &u) in gate.iter_mut().zip(up) {
        let x = if *g > clamp { clamp } else { *g };
        let u = if u > clamp { clamp } else { u };
        let u = if u < -clamp { -clamp } else { u };
        *g = scale * (x / (1.0 + exp(-x)) * u);
    }
}

/// One entry of a softmax pooling, channel by channel: `e = e^(z - max)`, `sum += e`,
/// `weighted += e * k`.
#[inline(always)]
pub(crate) fn pool(entry: &crate::dot::PoolEntry<'_>, sum: &mut [f32], weighted: &mut [f32]) {
    let inputs = entry.z.iter().zip(entry.max).zip(entry.k);
    for (((z, max), k), (sum, weighted)) in inputs.zip(sum.iter_mut().zip(weighted)) {
        let e = exp(z - max);
        *sum += e;
        *weighted = e.mul_add(*k, *weighted);
    }
}

/// `out[h][d] = fma(p[h][j], keys[j][d], out[h][d])` for `j` ascending; see
/// [`Kernels::weighted_sum`](crate::dot::Kernels::weighted_sum). `HEADS` at a time, then four, then one.
#[inline(always)]
pub(crate) fn weighted_sum<const HEADS: usize>(sum: &crate::dot::WeightedSum<'_>, out: &mut [f32]) {
    let (dim, mut first) = (sum.dim, 0);
    let mut rest = out;
    while !rest.is_empty() {
        let left = rest.len() / dim;
        let n = match left {
            _ if !dim.is_multiple_of(16) => 1,
            _ if left >= HEADS => HEADS,
            4.. => 4,
            _ => 1,
        };
        let (heads, behind) = rest.split_at_mut(n * dim);
        if dim.is_multiple_of(16) {
            for d in (0..dim).step_by(16) {
                match n {
                    1 => weighted_tile::<1>(sum, (first, d), heads),
                    4 => weighted_tile::<4>(sum, (first, d), heads),
                    _ => weighted_tile::<HEADS>(sum, (first, d), heads),
                }
            }
        } else {
            for (j, key) in sum.keys.chunks_exact(dim).enumerate() {
                let p = sum.weights[first * sum.stride + j];
                heads.iter_mut().zip(key).for_each(|(o, k)| *o = p.mul_add(*k, *o));
            }
        }
        (first, rest) = (first + n, behind);
    }
}

/// Sixteen channels of a few heads, which stay in registers over all keys.
#[inline(always)]
fn weighted_tile<const HEADS: usize>(
    sum: &crate::dot::WeightedSum<'_>,
    (first, d): (usize, usize),
    out: &mut [f32],
) {
    let dim = sum.dim;
    let mut acc = [[0f32; 16]; HEADS];
    for (h, acc) in acc.iter_mut().enumerate() {
        acc.copy_from_slice(&out[h * dim + d..][..16]);
    }
    let n_keys = sum.keys.len() / dim;
    let weights: [&[f32]; HEADS] =
        std::array::from_fn(|h| &sum.weights[(first + h) * sum.stride..][..n_keys]);
    for (j, key) in sum.keys.chunks_exact(dim).enumerate() {
        let key = &key[d..][..16];
        for (acc, weights) in acc.iter_mut().zip(weights) {
            for (a, k) in acc.iter_mut().zip(key) {
                *a = weights[j].mul_add(*k, *a);
            }
        }
    }
    for (h, acc) in acc.iter().enumerate() {
        out[h * dim + d..][..16].copy_from_slice(acc);
    }
}
