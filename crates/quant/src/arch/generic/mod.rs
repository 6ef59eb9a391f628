//! Portable kernels: the definition of every other table's bits, written to be read.

mod unpack;

use crate::TensorType;
use crate::dot::{ActFormat, Acts, Out, Q8RowMut, Q8Rows, Scratch, Weights, picked};
pub(crate) use unpack::half_ue8m0;
use unpack::{Block, unpack};

/// Magnitudes below this make a zero block: their reciprocal would overflow.
pub(crate) const TINY: f32 = f32::from_bits((127 - 100) << 23);

pub(super) fn quantize(x: &[f32], row: &mut Q8RowMut<'_>) {
    for (i, x) in x.chunks_exact(row.block).enumerate() {
        let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let zero = amax < TINY;
        row.scales[i] = if zero { 0.0 } else { amax / 127.0 };
        let inverse = if zero { 0.0 } else { 127.0 / amax };
        let codes = &mut row.codes[i * row.block..][..row.block];
        for (code, v) in codes.iter_mut().zip(x) {
            *code = (v * inverse).round_ties_even() as i8;
        }
        for (j, codes) in codes.chunks_exact(16).enumerate() {
            row.sums[i * row.block / 16 + j] = codes.iter().map(|&c| i16::from(c)).sum();
        }
    }
}

pub(super) fn matmul(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>, _: &mut Scratch) {
    for n in 0..out.rows() {
        for r in 0..w.rows() {
            let y = match *acts {
                Acts::F32 { .. } => dot_decoded(w.ty(), w.row(r), acts.f32_row(n)),
                Acts::Q8 { rows, index } => dot_q8(w.ty(), w.row(r), rows, picked(index, n)),
            };
            out.part(n, r, 1)[0] = y;
        }
    }
}

/// One stored row times one rounded row.
fn dot_q8(ty: TensorType, row: &[u8], acts: &Q8Rows, n: usize) -> f32 {
    let (codes, scales, sums) = (acts.codes(n), acts.scales(n), acts.sums(n));
    let mut acc = 0f32;
    let mut w = Block::default();
    for (b, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
        let len = unpack(ty, bytes, &mut w);
        let (codes, sums) = (&codes[b * len..][..len], &sums[b * len / 16..][..len / 16]);
        let (mut total, mut min_total) = (0i32, 0i32);
        for (g, codes) in codes.chunks_exact(16).enumerate() {
            let weights = &w.weights[16 * g..][..16];
            let sum: i32 =
                weights.iter().zip(codes).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum();
            total += i32::from(w.scales[g]) * sum;
            min_total += i32::from(w.mins[g]) * i32::from(sums[g]);
        }
        acc = (total as f32).mul_add(w.d * scales[b], acc);
        if w.has_mins {
            acc = (-(min_total as f32)).mul_add(w.dmin * scales[b], acc);
        }
    }
    acc
}

/// One stored row times one f32 row, a block at a time.
pub(super) fn dot_decoded(ty: TensorType, row: &[u8], x: &[f32]) -> f32 {
    debug_assert_eq!(ActFormat::of(ty), ActFormat::F32);
    let mut lanes = [0f32; 8];
    let mut buffer = [0f32; 256];
    // Plain numbers are decoded 256 at a time; block formats have 32 to 256 to a block.
    let step = 256 / ty.block_len() * ty.block_len();
    let step_bytes = step / ty.block_len() * ty.block_bytes();
    for (bytes, x) in row.chunks(step_bytes).zip(x.chunks(step)) {
        let buffer = &mut buffer[..x.len()];
        // `Weights::new` has proved that the type decodes and that blocks are whole.
        if crate::decode(ty, bytes, buffer).is_ok() {
            accumulate(buffer, x, &mut lanes);
        }
    }
    reduce(&lanes)
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    accumulate(a, b, &mut lanes);
    reduce(&lanes)
}

/// Adds products to the lanes `k % 8`; a last partial group is filled with zeros.
fn accumulate(a: &[f32], b: &[f32], lanes: &mut [f32; 8]) {
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for i in 0..8 {
            let (a, b) = (a.get(i).copied().unwrap_or(0.0), b.get(i).copied().unwrap_or(0.0));
            lanes[i] = a.mul_add(b, lanes[i]);
        }
    }
}

fn reduce(l: &[f32; 8]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}
