//! Times the products of one Flash layer and of the head on a device, kernel by kernel.
//!
//! `cargo run --release -p backend-cuda --example products -- [rows,…]`
//!
//! Every line is a recorded graph of products with different copies of the weights, so that no cache
//! holds them, and includes the rounding of the activations.

use std::time::Instant;

use backend::{Act, Count, Device, ExpertWeights, Limits, Ops, Routing, RowFormat, Shape, Step};
use backend_cuda::{Buffer, Cuda, Weight};
use gguf::TensorData;
use model::{Config, HostTensor, Preset};
use quant::TensorType::{self, F16, Iq2Xxs, Q2K, Q8_0};

/// What a plain read kernel reaches on an H200, in bytes a second.
const PLAIN_READS: f64 = 4.6e12;
/// Bytes of weights that a line goes through, well beyond any cache.
const SPREAD: usize = 400 << 20;
/// Experts that are loaded; more than a row uses.
const EXPERTS: usize = 64;

fn main() {
    let rows = std::env::args().nth(1).unwrap_or_else(|| "1,8,32,512,2048".to_owned());
    let rows: Vec<usize> = rows.split(',').map(|n| n.parse().expect("a number of rows")).collect();
    let mut config = Preset::Flash.config();
    config.n_experts = EXPERTS;
    let largest = rows.iter().copied().max().unwrap_or(1);
    let mut be = Cuda::open(0).expect("a CUDA device");
    println!("{:?}", be.description());
    let limits =
        Limits { step_rows: largest, logit_rows: largest, n_slots: 1, context: largest.max(256) };
    let shape = Shape { config: config.clone(), format: RowFormat::Model, limits };
    be.prepare(&shape).expect("memory for activations");
    for n in rows {
        dense(&mut be, &config, n);
        experts(&mut be, &config, n);
    }
}

/// The products of a layer whose weights are dense, and the head.
fn dense(be: &mut Cuda, c: &Config, n: usize) {
    let (queries, groups) = (c.n_heads * c.head_dim, c.n_out_groups);
    let group = queries / groups;
    for (name, ty, outputs, inputs, groups) in [
        ("q_a", Q8_0, c.q_lora_rank, c.hidden, 0),
        ("q_b", Q8_0, queries, c.q_lora_rank, 0),
        ("compressor", F16, 2 * c.head_dim, c.hidden, 0),
        ("out_a", Q8_0, groups * c.out_lora_rank, group, groups),
        ("out_b", Q8_0, c.hidden, groups * c.out_lora_rank, 0),
        ("shared gate", Q8_0, c.expert_inner, c.hidden, 0),
        ("shared down", Q8_0, c.hidden, c.expert_inner, 0),
        ("router", F16, 256, c.hidden, 0),
        ("head", Q8_0, c.n_vocab, c.hidden, 0),
    ] {
        let bytes = ty.row_bytes(inputs).expect("whole blocks") * outputs;
        let weights: Vec<Weight> = (0..copies(bytes, n))
            .map(|_| be.load(&tensor(ty, 1, outputs, inputs)).expect("memory for weights"))
            .collect();
        let x = activations(be, n, inputs * groups.max(1));
        let mut out = be.alloc("out", n, outputs).expect("memory");
        let time = time(be, n, weights.len(), |be, step| {
            for w in &weights {
                match groups {
                    0 => be.matmul(&mut out, &x, w, step, Count::Rows),
                    _ => be.grouped_matmul(&mut out, &x, w, groups, step),
                }
                .expect("a product");
            }
        });
        report(name, ty, n, time, bytes, 2 * outputs * inputs * n);
    }
}

/// The routed experts, gate to sum.
fn experts(be: &mut Cuda, c: &Config, n: usize) {
    let (hidden, inner, used) = (c.hidden, c.expert_inner, c.n_experts_used);
    let mut load =
        |ty, rows, cols| be.load(&tensor(ty, EXPERTS, rows, cols)).expect("memory for weights");
    let weights = ExpertWeights {
        gate: load(Iq2Xxs, inner, hidden),
        up: load(Iq2Xxs, inner, hidden),
        down: load(Q2K, hidden, inner),
        clamp: 10.0,
    };
    // Row i chooses among hash slots by its token: ids that spread over all experts.
    let table: Vec<u8> = (0..EXPERTS * used)
        .flat_map(|i| (((i / used * 7 + i % used * 11) % EXPERTS) as i32).to_le_bytes())
        .collect();
    let table = HostTensor {
        name: "ids by token".to_owned(),
        ty: TensorType::I32,
        rows: EXPERTS,
        cols: used,
        experts: 1,
        data: TensorData::from_vec(table),
    };
    let table = be.load(&table).expect("memory");
    let mut routing = Routing {
        ids: be.alloc_ids("ids", n, used).expect("memory"),
        weights: be.alloc("weights", n, used).expect("memory"),
    };
    let (logits, x) = (activations(be, n, EXPERTS), activations(be, n, hidden));
    let mut out = be.alloc("out", n, hidden).expect("memory");
    let time = time(be, n, 1, |be, step| {
        be.route_hash(&mut routing, &logits, &table, step).expect("routes");
        be.routed_experts(&mut out, &x, &weights, &routing, step).expect("experts");
    });
    let bytes = |ty: TensorType| ty.row_bytes(hidden).expect("whole blocks") * inner;
    let distinct = (n * used).min(EXPERTS);
    let all = distinct * (2 * bytes(Iq2Xxs) + bytes(Q2K));
    report("experts", Iq2Xxs, n, time, all, 6 * inner * hidden * n * used);
}

/// Copies of a weight to go through; few where arithmetic is what counts.
fn copies(bytes: usize, n_rows: usize) -> usize {
    if n_rows > 32 { 2 } else { (SPREAD / bytes + 1).clamp(2, 60) }
}

/// A weight of codes that are no zeros under scales near one hundredth.
fn tensor(ty: TensorType, experts: usize, rows: usize, cols: usize) -> HostTensor {
    let bytes = ty.row_bytes(cols).expect("whole blocks") * rows * experts;
    // Every sixteen bits are a small positive half, whichever of them a format takes for a scale.
    let word = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 16) as u16 & 0x23ff | 0x2000;
    let data = (0..bytes.div_ceil(2)).flat_map(|i| word(i).to_le_bytes()).take(bytes).collect();
    let data = TensorData::from_vec(data);
    HostTensor { name: "made up".to_owned(), ty, rows, cols, experts, data }
}

fn activations(be: &mut Cuda, n: usize, cols: usize) -> Act<Buffer> {
    let mut act = be.alloc("x", n, cols).expect("memory");
    let value = |i: usize| ((i * 7919 % 2003) as f32 - 1001.0) / 577.0;
    be.write(&mut act, 0, &(0..n * cols).map(value).collect::<Vec<f32>>()).expect("writes");
    act
}

/// Seconds that one of the `n` products of `run` takes: the median of recorded steps.
fn time(be: &mut Cuda, n_rows: usize, n: usize, mut run: impl FnMut(&mut Cuda, &Step)) -> f64 {
    let mut step = Step::default();
    let tokens: Vec<u32> = (0..n_rows as u32).map(|i| i % EXPERTS as u32).collect();
    step.push_span(0, 0, &tokens, &[]);
    let mut wait = be.alloc("wait", 1, 1).expect("memory");
    let mut times = Vec::new();
    for i in 0..7 {
        be.write(&mut wait, 0, &[i as f32]).expect("writes");
        be.begin(&step).expect("begins");
        let start = Instant::now();
        run(be, &step);
        be.submit().expect("runs");
        be.read(&wait, 0, &mut [0.0]).expect("waits");
        times.push(start.elapsed().as_secs_f64() / n as f64);
    }
    // The first runs load and record.
    times.drain(..2);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn report(name: &str, ty: TensorType, n: usize, time: f64, bytes: usize, flops: usize) {
    let rate = bytes as f64 / time;
    println!(
        "{name:12} {:8} {n:5} rows {:9.2} us {:8.2} MB {:6.3} TB/s {:5.1} % {:7.1} TFLOP/s",
        ty.name(),
        time * 1e6,
        bytes as f64 / 1e6,
        rate / 1e12,
        100.0 * rate / PLAIN_READS,
        flops as f64 / time / 1e12,
    );
}
