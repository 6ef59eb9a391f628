//! Portable kernels: the definition of every other table's bits, written to be read.

mod unpack;

use crate::TensorType;
use crate::dot::{
    ActFormat, Acts, Out, RoundedRowMut, RoundedRows, Scratch, WIDE_LIMIT, Weights, picked,
    wide_place,
};
#[cfg(target_arch = "x86_64")]
pub(crate) use unpack::half_ue8m0;
use unpack::{Block, unpack};

/// Magnitudes below this make a zero block: their reciprocal would overflow.
const TINY: f32 = f32::from_bits((127 - 100) << 23);

pub(super) fn quantize(x: &[f32], row: &mut RoundedRowMut<'_>) {
    let block = row.format.block().unwrap_or(1);
    let wide = row.format == ActFormat::Q16x32;
    for (b, x) in x.chunks_exact(block).enumerate() {
        let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let (scale, inverse) = scales(amax, if wide { WIDE_LIMIT } else { 127.0 });
        row.scales[b] = scale;
        let code = |v: f32| (v * inverse).round_ties_even();
        if wide {
            x.iter()
                .enumerate()
                .for_each(|(i, v)| row.wide[32 * b + wide_place(i)] = code(*v) as i16);
            continue;
        }
        let codes = &mut row.codes[b * block..][..block];
        codes.iter_mut().zip(x).for_each(|(c, v)| *c = code(*v) as i8);
        for (j, codes) in codes.chunks_exact(16).enumerate() {
            row.sums[b * block / 16 + j] = codes.iter().map(|&c| i16::from(c)).sum();
        }
    }
}

/// The scale of a block and what its values are multiplied with.
pub(crate) fn scales(amax: f32, limit: f32) -> (f32, f32) {
    if amax < TINY { (0.0, 0.0) } else { (amax / limit, limit / amax) }
}

pub(super) fn matmul(w: &Weights<'_>, acts: &Acts<'_>, out: &mut Out<'_>, _: &mut Scratch) {
    for n in 0..out.rows() {
        for r in 0..w.rows() {
            let y = match *acts {
                Acts::F32 { .. } => dot_decoded(w.ty(), w.row(r), acts.f32_row(n)),
                Acts::Rounded { rows, index } => {
                    dot_rounded(w.ty(), w.row(r), rows, picked(index, n))
                }
            };
            out.part(n, r, 1)[0] = y;
        }
    }
}

/// One stored row times one rounded row.
fn dot_rounded(ty: TensorType, row: &[u8], acts: &RoundedRows, n: usize) -> f32 {
    let scales = acts.scales(n);
    let mut acc = 0f32;
    let mut w = Block::default();
    for (b, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
        let len = unpack(ty, bytes, &mut w);
        let weights = &w.weights[..len];
        if acts.format() == ActFormat::Q16x32 {
            let codes = &acts.wide(n)[b * len..][..len];
            let products = weights.iter().enumerate();
            let products = products.map(|(i, &w)| i32::from(w) * i32::from(codes[wide_place(i)]));
            acc = (products.sum::<i32>() as f32).mul_add(w.d * scales[b], acc);
            continue;
        }
        let codes = &acts.codes(n)[b * len..][..len];
        let sums = &acts.sums(n)[b * len / 16..][..len / 16];
        let (mut total, mut min_total) = (0i32, 0i32);
        for (g, (codes, weights)) in
            codes.chunks_exact(16).zip(weights.chunks_exact(16)).enumerate()
        {
            let products = weights.iter().zip(codes).map(|(&w, &a)| i32::from(w) * i32::from(a));
            total += i32::from(w.scales[g]) * products.sum::<i32>();
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
