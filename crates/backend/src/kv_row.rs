//! One KV row to bytes and back, in the layout of [`RowLayout`].

use half::f16;
use quant::round_trip::{
    MixedRow, f16_decode, fp4_block_decode, fp4_block_encode, fp8_block_encode, fp8_decode,
    hadamard,
};

use crate::kv::{RowFormat, RowLayout};

/// Rounds `x` as the format says and writes it. Index rows are Hadamard-rotated here, so `x` is
/// the rotated-by-position row; it is overwritten.
pub fn encode(layout: &RowLayout, x: &mut [f32], out: &mut [u8]) {
    match (layout.format, layout.index) {
        (RowFormat::F32, _) => {
            for (b, v) in out.chunks_exact_mut(4).zip(x.iter()) {
                b.copy_from_slice(&v.to_le_bytes());
            }
        }
        (_, false) => encode_attention(layout, x, out),
        (_, true) => encode_index(layout, x, out),
    }
}

/// The row as f32. An index row stays in the Hadamard basis, where queries meet it.
pub fn decode(layout: &RowLayout, bytes: &[u8], out: &mut [f32]) {
    match (layout.format, layout.index) {
        (RowFormat::F32, _) => {
            for (v, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        (_, index) => {
            let coded = layout.coded();
            let (codes, scales) = bytes.split_at(layout.code_bytes());
            if index {
                let block = layout.block();
                let blocks = out[..coded].chunks_mut(block).zip(codes.chunks(block / 2));
                for ((block, codes), &scale) in blocks.zip(scales) {
                    fp4_block_decode(codes, scale, block);
                }
            } else {
                fp8_decode(codes, scales, layout.block(), &mut out[..coded]);
            }
            decode_tail(layout.format, &bytes[layout.tail_offset()..], &mut out[coded..]);
        }
    }
}

/// As [`decode`], row after row; those `ahead` come next.
pub fn decode_rows(layout: &RowLayout, rows: &[&[u8]], ahead: &[&[u8]], out: &mut [f32]) {
    if layout.format == RowFormat::Model && !layout.index && layout.block() == MixedRow::BLOCK {
        let (codes, halves_at) = (layout.coded(), layout.tail_offset());
        return MixedRow { codes, halves_at, dim: layout.dim }.decode(rows, ahead, out);
    }
    for (row, out) in rows.iter().zip(out.chunks_exact_mut(layout.dim)) {
        decode(layout, row, out);
    }
}

/// The indexer's query meets its rows in the same basis and precision: Hadamard, then E2M1.
pub fn round_index_query(layout: &RowLayout, head: &mut [f32]) {
    if layout.format.rounds() {
        rotate(head);
        quant::round_trip::fp4(head, layout.block());
    }
}

fn encode_attention(layout: &RowLayout, x: &[f32], out: &mut [u8]) {
    let coded = layout.coded();
    let (codes, rest) = out.split_at_mut(layout.code_bytes());
    let blocks = x[..coded].chunks(layout.block()).zip(codes.chunks_mut(layout.block()));
    for ((block, codes), scale) in blocks.zip(rest.iter_mut()) {
        *scale = fp8_block_encode(block, codes);
    }
    let tail = &mut out[layout.tail_offset()..];
    if layout.format == RowFormat::Model {
        for (b, v) in tail.chunks_exact_mut(2).zip(&x[coded..]) {
            b.copy_from_slice(&f16::from_f32(*v).to_le_bytes());
        }
    } else {
        for (b, v) in tail.chunks_exact_mut(4).zip(&x[coded..]) {
            b.copy_from_slice(&v.to_le_bytes());
        }
    }
}

fn decode_tail(format: RowFormat, bytes: &[u8], out: &mut [f32]) {
    if format == RowFormat::Model {
        f16_decode(&bytes[..2 * out.len()], out);
    } else {
        for (v, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
            *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
    }
}

fn encode_index(layout: &RowLayout, x: &mut [f32], out: &mut [u8]) {
    rotate(x);
    let (codes, scales) = out.split_at_mut(layout.code_bytes());
    let blocks = x.chunks(layout.block()).zip(codes.chunks_mut(layout.block() / 2));
    for ((block, codes), scale) in blocks.zip(scales) {
        *scale = fp4_block_encode(block, codes);
    }
}

fn rotate(x: &mut [f32]) {
    // `prepare` refuses the Model format for widths that are no power of two.
    hadamard(x).unwrap_or_else(|e| panic!("index width was checked at the start: {e}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.03).collect()
    }

    fn layout(dim: usize, rope_dim: usize, format: RowFormat, index: bool) -> RowLayout {
        RowLayout { dim, rope_dim, format, index }
    }

    #[test]
    fn published_rows_have_the_published_sizes() {
        assert_eq!(layout(512, 64, RowFormat::Model, false).bytes(), 584);
        assert_eq!(layout(128, 0, RowFormat::Model, true).bytes(), 68);
        assert_eq!(layout(512, 64, RowFormat::ModelWideTail, false).bytes(), 712);
        assert_eq!(layout(512, 64, RowFormat::F32, false).bytes(), 2048);
    }

    #[test]
    fn a_stored_row_is_the_round_trip_of_the_model() {
        let shapes = [(512, 64), (192, 64), (256, 32), (200, 64)];
        let formats = [RowFormat::Model, RowFormat::ModelWideTail];
        for ((dim, rope_dim), format) in shapes.into_iter().zip(formats.repeat(2)) {
            let layout = layout(dim, rope_dim, format, false);
            let mut want = sample(dim);
            let (mut x, mut bytes) = (want.clone(), vec![0xAA; layout.bytes()]);
            encode(&layout, &mut x, &mut bytes);
            let mut got = vec![f32::NAN; dim];
            decode(&layout, &bytes, &mut got);
            let coded = layout.coded();
            quant::round_trip::fp8(&mut want[..coded], 64);
            if format == RowFormat::Model {
                want[coded..].iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
            }
            assert_eq!(got, want, "{dim}/{rope_dim}");
        }
    }

    #[test]
    fn index_rows_and_queries_meet_in_one_basis() {
        let layout = layout(128, 0, RowFormat::Model, true);
        let mut query = sample(128);
        let mut bytes = vec![0; layout.bytes()];
        encode(&layout, &mut sample(128), &mut bytes);
        let mut row = vec![0.0; 128];
        decode(&layout, &bytes, &mut row);
        round_index_query(&layout, &mut query);
        assert_eq!(row, query);
    }

    #[test]
    fn exact_rows_keep_every_bit() {
        let layout = layout(100, 4, RowFormat::F32, false);
        let x = sample(100);
        let mut bytes = vec![0; layout.bytes()];
        encode(&layout, &mut x.clone(), &mut bytes);
        let mut got = vec![0.0; 100];
        decode(&layout, &bytes, &mut got);
        assert_eq!(got, x);
    }
}
