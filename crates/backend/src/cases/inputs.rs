//! Inputs of cases: values by formula, weights of every type, steps over one slot.

use std::ops::Range;

use gguf::TensorData;
use model::{Config, HcConfig, HostTensor, IndexerConfig, LayerKind, Rope};
use quant::TensorType;

use crate::device::{Act, Device, Limits, Shape};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;
use crate::step::Step;

/// `n` values of about unit variance, a function of `seed` alone.
pub(super) fn values(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| unit(seed, i) * 3.4 - 1.7).collect()
}

/// A number in [0, 1).
fn unit(seed: u64, i: u64) -> f32 {
    (bits(seed, i) >> 40) as f32 / (1u64 << 24) as f32
}

/// splitmix64 at a place of a stream.
pub(super) fn bits(seed: u64, i: u64) -> u64 {
    let mut z = (seed << 32 ^ i).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A weight of `experts` matrices whose products keep the size of their inputs.
pub(super) fn weight(
    seed: u64,
    ty: TensorType,
    experts: usize,
    rows: usize,
    cols: usize,
) -> HostTensor {
    let scale = 1.0 / (cols as f32).sqrt();
    scaled_weight(seed, ty, (experts, rows, cols), scale)
}

/// A vector near one, as norms have.
pub(super) fn vector(seed: u64, len: usize) -> HostTensor {
    let data = values(seed, len).iter().flat_map(|v| (1.0 + 0.2 * v).to_le_bytes()).collect();
    tensor(TensorType::F32, (1, 1, len), data)
}

/// A vector of values around zero.
pub(super) fn offsets(seed: u64, len: usize) -> HostTensor {
    let data = values(seed, len).iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(TensorType::F32, (1, 1, len), data)
}

/// Ids below `n`, distinct within a row.
pub(super) fn table(seed: u64, rows: usize, used: usize, n: usize) -> HostTensor {
    let row = |r: usize| (0..used).map(move |i| (bits(seed, r as u64) as usize % n + i) % n);
    let ids = (0..rows).flat_map(row).flat_map(|id| (id as i32).to_le_bytes()).collect();
    tensor(TensorType::I32, (1, rows, used), ids)
}

fn scaled_weight(
    seed: u64,
    ty: TensorType,
    (experts, rows, cols): (usize, usize, usize),
    scale: f32,
) -> HostTensor {
    let bytes = ty.row_bytes(cols).unwrap_or_else(|| panic!("whole blocks of {}", ty.name()));
    let mut data = vec![0; experts * rows * bytes];
    for (r, row) in data.chunks_exact_mut(bytes).enumerate() {
        let x: Vec<f32> = values(seed ^ (r as u64) << 20, cols).iter().map(|v| v * scale).collect();
        if quant::encode(ty, &x, row).is_err() {
            random_blocks(seed ^ r as u64, ty, scale, row);
        }
    }
    tensor(ty, (experts, rows, cols), data)
}

/// Blocks of a type without encoder: random codes under a sane scale.
fn random_blocks(seed: u64, ty: TensorType, scale: f32, out: &mut [u8]) {
    assert_eq!(ty, TensorType::Q6K, "only Q6_K has no encoder among the types of the cases");
    for (i, b) in out.iter_mut().enumerate() {
        *b = bits(seed, i as u64) as u8;
    }
    for block in out.chunks_exact_mut(ty.block_bytes()) {
        let d = half::f16::from_f32(scale / (40.0 * 74.0)).to_le_bytes();
        let end = block.len();
        block[end - 2..].copy_from_slice(&d);
    }
}

fn tensor(
    ty: TensorType,
    (experts, rows, cols): (usize, usize, usize),
    data: Vec<u8>,
) -> HostTensor {
    let name = format!("{} [{experts}, {rows}, {cols}]", ty.name());
    HostTensor { name, ty, rows, cols, experts, data: TensorData::from_vec(data) }
}

/// Constants of a small model; cases change what they need.
pub(super) fn config() -> Config {
    Config {
        name: "case".to_owned(),
        layers: vec![LayerKind::Csa],
        n_vocab: 64,
        context_max: 1 << 20,
        hidden: 64,
        n_heads: 4,
        head_dim: 128,
        rope_dim: 64,
        q_lora_rank: 64,
        n_out_groups: 2,
        out_lora_rank: 32,
        window: 16,
        indexer: IndexerConfig { n_heads: 4, head_dim: 64, top_k: 8 },
        hc: HcConfig { n_streams: 4, sinkhorn_iterations: 20, eps: 1e-6 },
        rms_eps: 1e-6,
        n_experts: 8,
        n_experts_used: 3,
        expert_inner: 64,
        route_scale: 1.5,
        n_hash_layers: 0,
        expert_clamp: vec![10.0],
        shared_clamp: vec![10.0],
        rope_main: Rope::plain(64, 10_000.0),
        rope_compress: Rope::yarn(64, 160_000.0, 16.0, 1024.0, 32.0, 1.0),
        n_mtp: 0,
    }
}

/// Prepares a backend for `config` and at most `rows` rows.
pub(super) fn prepare<B: Ops>(
    be: &mut B,
    config: &Config,
    format: RowFormat,
    rows: usize,
) -> Result<()> {
    let limits = Limits { step_rows: rows, logit_rows: rows, n_slots: 2, context: 1 << 16 };
    be.prepare(&Shape { config: config.clone(), format, limits })
}

/// A step over rows `range` of a case: consecutive positions from `pos0` on, every row wanting
/// logits.
pub(super) fn step(range: Range<usize>, pos0: usize, pages: &[u32]) -> Step {
    let mut step = Step::default();
    let tokens: Vec<u32> = range.clone().map(|r| (7 * r as u32 + 3) % 64).collect();
    step.push_span(1, (pos0 + range.start) as u32, &tokens, pages);
    step.logit_rows = (0..range.len() as u32).collect();
    step
}

/// An activation with `rows` filled rows and a guard row of NaN behind them.
pub(super) fn filled<B: Device>(
    be: &mut B,
    label: &'static str,
    cols: usize,
    data: &[f32],
) -> Result<Act<B::Buf>> {
    let rows = data.len() / cols;
    let mut act = be.alloc(label, rows + 1, cols)?;
    be.write(&mut act, 0, data)?;
    be.write(&mut act, rows, &vec![f32::NAN; cols])?;
    Ok(act)
}

/// An output of `rows` rows of NaN: every value must be written, and the guard row must not.
pub(super) fn output<B: Device>(
    be: &mut B,
    label: &'static str,
    rows: usize,
    cols: usize,
) -> Result<Act<B::Buf>> {
    filled(be, label, cols, &vec![f32::NAN; rows * cols])
}

/// Appends the rows of an output and looks at its guard row: a touched one becomes a NaN result.
pub(super) fn collect<B: Device>(
    be: &mut B,
    act: &Act<B::Buf>,
    rows: usize,
    out: &mut Vec<f32>,
) -> Result<()> {
    let mut values = vec![0.0; (rows + 1) * act.cols];
    be.read(act, 0, &mut values)?;
    let guard = values.split_off(rows * act.cols);
    if guard.iter().any(|v| !v.is_nan()) {
        values.fill(f32::NAN);
    }
    out.extend(values);
    Ok(())
}

/// Rows in steps of `chunk`.
pub(super) fn chunks(rows: usize, chunk: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(chunk).map(move |start| start..(start + chunk).min(rows))
}
