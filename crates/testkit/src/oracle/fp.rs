//! The released storage: FP8 in 128 x 128 blocks, FP4 in runs of 32, with power-of-two scales.

use quant::{f4, f8};

use super::weights::{Tensor, Values, Weights};

/// Storage class of a tensor in the released checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    Fp4,
    Fp8,
    F32,
    I64,
    Bf16,
}

/// Blocks with a smaller largest magnitude share its scale.
const AMAX_MIN: f32 = 1e-30;

/// Edge of a square FP8 block.
const FP8_EDGE: usize = 128;

/// Weights of an FP4 block.
const FP4_RUN: usize = 32;

/// Endings of the names of FP8 matrices, without `.weight`.
const FP8_NAMES: [&str; 11] = [
    "attn.wq_a",
    "attn.wq_b",
    "attn.wkv",
    "attn.wo_a",
    "attn.wo_b",
    "indexer.wq_b",
    "shared_experts.w1",
    "shared_experts.w2",
    "shared_experts.w3",
    ".e_proj",
    ".h_proj",
];

impl Storage {
    pub(super) fn of(name: &str) -> Self {
        let base = name.strip_suffix(".weight").unwrap_or(name);
        let f32_endings = ["attn_sink", ".ape", "gate.bias"];
        if name.contains(".experts.") {
            Self::Fp4
        } else if FP8_NAMES.iter().any(|ending| base.ends_with(ending)) {
            Self::Fp8
        } else if name.ends_with("tid2eid") {
            Self::I64
        } else if name.contains("hc_") || f32_endings.iter().any(|e| name.ends_with(e)) {
            Self::F32
        } else {
            Self::Bf16
        }
    }
}

/// Codes, one a byte, and the scale bytes of their blocks, both row-major.
pub(super) struct Coded {
    pub(super) codes: Vec<u8>,
    pub(super) scales: Vec<u8>,
    pub(super) scale_cols: usize,
}

/// The same model after a trip through the released storage.
pub(super) fn round_trip(weights: &Weights) -> Weights {
    let round = |(name, tensor): &(String, Tensor)| {
        let values = match Storage::of(name) {
            Storage::Fp4 => Values::F32(fp4_decode(tensor, &fp4_encode(tensor))),
            Storage::Fp8 => Values::F32(fp8_decode(tensor, &fp8_encode(tensor))),
            _ => tensor.values.clone(),
        };
        (name.clone(), Tensor { shape: tensor.shape.clone(), values })
    };
    Weights(weights.0.iter().map(round).collect())
}

pub(super) fn fp8_encode(tensor: &Tensor) -> Coded {
    let (x, cols) = (tensor.f32(), tensor.cols());
    let scale_cols = cols.div_ceil(FP8_EDGE);
    let mut amax = vec![AMAX_MIN; (x.len() / cols).div_ceil(FP8_EDGE) * scale_cols];
    for (i, v) in x.iter().enumerate() {
        let block = &mut amax[fp8_block(i, cols, scale_cols)];
        *block = block.max(v.abs());
    }
    let scales: Vec<u8> = amax.iter().map(|a| f8::ue8m0_ceil(a * (1.0 / f8::E4M3_MAX))).collect();
    let code = |(i, v): (usize, &f32)| {
        f8::encode(v / f8::ue8m0_decode(scales[fp8_block(i, cols, scale_cols)]))
    };
    Coded { codes: x.iter().enumerate().map(code).collect(), scales, scale_cols }
}

fn fp8_decode(tensor: &Tensor, coded: &Coded) -> Vec<f32> {
    let scale = |i| coded.scales[fp8_block(i, tensor.cols(), coded.scale_cols)];
    let value = |(i, &c): (usize, &u8)| f8::decode(c) * f8::ue8m0_decode(scale(i));
    coded.codes.iter().enumerate().map(value).collect()
}

fn fp8_block(i: usize, cols: usize, scale_cols: usize) -> usize {
    i / cols / FP8_EDGE * scale_cols + i % cols / FP8_EDGE
}

pub(super) fn fp4_encode(tensor: &Tensor) -> Coded {
    let mut coded =
        Coded { codes: Vec::new(), scales: Vec::new(), scale_cols: tensor.cols() / FP4_RUN };
    for run in tensor.f32().chunks(FP4_RUN) {
        let amax = run.iter().fold(AMAX_MIN, |m, v| m.max(v.abs()));
        let e = f8::ue8m0_ceil(amax * (1.0 / f4::E2M1_MAX));
        coded.scales.push(e);
        coded.codes.extend(run.iter().map(|v| f4::encode(v / f8::ue8m0_decode(e))));
    }
    coded
}

fn fp4_decode(tensor: &Tensor, coded: &Coded) -> Vec<f32> {
    assert!(tensor.cols().is_multiple_of(FP4_RUN), "whole FP4 runs");
    let value = |(i, &c): (usize, &u8)| f4::decode(c) * f8::ue8m0_decode(coded.scales[i / FP4_RUN]);
    coded.codes.iter().enumerate().map(value).collect()
}
