//! Times the operations of Flash's layers on a device with many rows, and says what each comes to a token.
//!
//! `cargo run --release -p backend-cuda --example prefill -- [rows,…] [context,…]`

use std::time::Instant;

use backend::{
    Act, CompressorWeights, Count, Device, ExpertWeights, HcWeights, KvLayout, Limits, MoeWeights,
    Ops, PoolInput, Pooled, RouterWeights, RowFormat, Selected, Shape, SiteWeights, Step,
};
use backend_cuda::{Buffer, Cuda, Kv};
use gguf::TensorData;
use model::{Config, HostTensor, LayerKind, Preset};
use quant::TensorType::{self, F16, F32, Iq2Xxs, Q2K, Q4K, Q8_0};

/// Tokens of a page.
const PAGE: usize = backend::PAGE_TOKENS;

fn main() {
    let list = |i: usize, default: &str| -> Vec<usize> {
        let text = std::env::args().nth(i).unwrap_or_else(|| default.to_owned());
        text.split(',').map(|n| n.parse().expect("a number")).collect()
    };
    let (rows, contexts) = (list(1, "512,2048,8192"), list(2, "8192,131072"));
    let mut config = Preset::Flash.config();
    config.layers = vec![LayerKind::SlidingWindow, LayerKind::Csa, LayerKind::Hca];
    let largest = rows.iter().copied().max().unwrap_or(1);
    let context = contexts.iter().copied().max().unwrap_or(1).max(largest);
    let mut be = Cuda::open(0).expect("a CUDA device");
    println!("{:?}", be.description());
    let limits = Limits { step_rows: largest, logit_rows: 1, n_slots: 1, context };
    let shape = Shape { config: config.clone(), format: RowFormat::Model, limits };
    println!("scratch {:.2} GB", be.scratch_bytes(&shape) as f64 / 1e9);
    be.prepare(&shape).expect("memory for activations");
    agreement(&mut be);
    for &n in &rows {
        products(&mut be, &config, n);
        sites(&mut be, &config, n);
    }
    for (gate, down) in [(Iq2Xxs, Q2K), (Q4K, Q4K)] {
        let moe = mixture(&mut be, &config, gate, down);
        for &n in &rows {
            mixtures(&mut be, &config, &moe, n, gate);
        }
    }
    let n = largest.min(2048);
    let mut attention = Attention::new(&mut be, &config, context, n);
    let mut filled = 0;
    for context in contexts {
        attention.fill(&mut be, filled, context - n);
        filled = context - n;
        attention.times(&mut be, &config, filled);
    }
}

/// Distances of products with many rows from those of 16 at a time, whose kernels are others.
fn agreement(be: &mut Cuda) {
    let (n, outputs, inputs) = (200, 1000, 4096);
    for ty in [Q8_0, Q2K, Q4K, TensorType::Q6K, Iq2Xxs, TensorType::Mxfp4, F16] {
        let w = be.load(&tensor(ty, 1, outputs, inputs)).expect("memory for weights");
        let x = activations(be, n, inputs);
        let mut values = vec![0.0; n * inputs];
        be.read(&x, 0, &mut values).expect("reads");
        let mut all = be.alloc("out", n, outputs).expect("memory");
        let step = step(n, 0, &[]);
        be.begin(&step).expect("begins");
        be.matmul(&mut all, &x, &w, &step, Count::Rows).expect("a product");
        let (mut got, mut want) = (vec![0.0; n * outputs], vec![0.0; n * outputs]);
        be.read(&all, 0, &mut got).expect("reads");
        for (i, rows) in want.chunks_mut(16 * outputs).enumerate() {
            let few = rows.len() / outputs;
            let mut x = be.alloc("x", few, inputs).expect("memory");
            let at = 16 * i * inputs;
            be.write(&mut x, 0, &values[at..at + few * inputs]).expect("writes");
            let mut out = be.alloc("out", few, outputs).expect("memory");
            let step = self::step(few, 0, &[]);
            be.begin(&step).expect("begins");
            be.matmul(&mut out, &x, &w, &step, Count::Rows).expect("a product");
            be.read(&out, 0, rows).expect("reads");
        }
        let square = |v: f32| f64::from(v) * f64::from(v);
        let error: f64 = got.iter().zip(&want).map(|(g, w)| square(g - w)).sum();
        let norm: f64 = want.iter().map(|w| square(*w)).sum();
        println!("{:8} {n} rows against 16 at a time: nmse {:.1e}", ty.name(), error / norm);
    }
}

/// Products of one shape; the count says how often a model of 43 layers has them.
fn products(be: &mut Cuda, c: &Config, n: usize) {
    let (queries, groups) = (c.n_heads * c.head_dim, c.n_out_groups);
    let index = c.indexer.n_heads * c.indexer.head_dim;
    for (name, ty, outputs, inputs, groups, count) in [
        ("q_a", Q8_0, c.q_lora_rank, c.hidden, 0, 43),
        ("kv", Q8_0, c.head_dim, c.hidden, 0, 43),
        ("q_b", Q8_0, queries, c.q_lora_rank, 0, 43),
        ("out_a", Q8_0, groups * c.out_lora_rank, queries / groups, groups, 43),
        ("out_b", Q8_0, c.hidden, groups * c.out_lora_rank, 0, 43),
        ("compressor", F16, 2 * c.head_dim, c.hidden, 0, 62),
        ("index q_b", F16, index, c.q_lora_rank, 0, 21),
        ("router", F16, c.n_experts, c.hidden, 0, 43),
        ("mixing", F16, c.hc.mix_len(), c.hc.n_streams * c.hidden, 0, 86),
        ("square Q2_K", Q2K, 4096, 4096, 0, 0),
        ("square Q4_K", Q4K, 4096, 4096, 0, 0),
        ("square IQ2", Iq2Xxs, 4096, 4096, 0, 0),
        ("square MXFP4", TensorType::Mxfp4, 4096, 4096, 0, 0),
    ] {
        let w = be.load(&tensor(ty, 1, outputs, inputs)).expect("memory for weights");
        let x = activations(be, n, inputs * groups.max(1));
        let mut out = be.alloc("out", n, outputs).expect("memory");
        let seconds = time(be, n, 0, &[], |be, step| {
            match groups {
                0 => be.matmul(&mut out, &x, &w, step, Count::Rows),
                _ => be.grouped_matmul(&mut out, &x, &w, groups, step),
            }
            .expect("a product");
        });
        report(name, n, seconds, 2 * outputs * inputs * n, count);
    }
}

/// What lies between the sublayers.
fn sites(be: &mut Cuda, c: &Config, n: usize) {
    let streams_len = c.hc.n_streams * c.hidden;
    let site = SiteWeights {
        hc: HcWeights {
            project: be.load(&tensor(F16, 1, c.hc.mix_len(), streams_len)).expect("memory"),
            base: be.load_vector(&tensor(F32, 1, 1, c.hc.mix_len())).expect("memory"),
            scale: be.load_vector(&tensor(F32, 1, 1, 3)).expect("memory"),
        },
        norm: be.load_vector(&tensor(F32, 1, 1, c.hidden)).expect("memory"),
    };
    let mut streams = activations(be, n, streams_len);
    let y = activations(be, n, c.hidden);
    let mut x = be.alloc("x", n, c.hidden).expect("memory");
    let mut mix = activations(be, n, c.hc.mix_len());
    let seconds = time(be, n, 0, &[], |be, step| {
        be.hc_next(&mut x, &mut mix, &mut streams, &y, &site, step).expect("a site");
    });
    report("site", n, seconds, 0, 86);
    let mut q = activations(be, n, c.n_heads * c.head_dim);
    let seconds = time(be, n, 0, &[], |be, step| {
        be.rope_tail(&mut q, c.head_dim, &c.rope_compress, true, step).expect("turns");
    });
    report("rotation", n, seconds, 0, 86);
    let mut out = be.alloc("q", n, q.cols).expect("memory");
    let seconds = time(be, n, 0, &[], |be, step| {
        be.rms_norm_plain(&mut out, &q, c.head_dim, step, Count::Rows).expect("norms");
    });
    report("norm of heads", n, seconds, 0, 43);
}

fn mixture(be: &mut Cuda, c: &Config, gate: TensorType, down: TensorType) -> MoeWeights<Cuda> {
    let (hidden, inner, n) = (c.hidden, c.expert_inner, c.n_experts);
    let mut load = |ty, experts, rows, cols| {
        be.load(&tensor(ty, experts, rows, cols)).expect("memory for weights")
    };
    let routed = ExpertWeights {
        gate: load(gate, n, inner, hidden),
        up: load(gate, n, inner, hidden),
        down: load(down, n, hidden, inner),
        clamp: 10.0,
    };
    let shared = ExpertWeights {
        gate: load(Q8_0, 1, inner, hidden),
        up: load(Q8_0, 1, inner, hidden),
        down: load(Q8_0, 1, hidden, inner),
        clamp: 10.0,
    };
    let gate = load(F16, 1, n, hidden);
    let bias = be.load_vector(&tensor(F32, 1, 1, n)).expect("memory");
    MoeWeights { gate, router: RouterWeights::TopK { bias }, routed, shared }
}

fn mixtures(be: &mut Cuda, c: &Config, moe: &MoeWeights<Cuda>, n: usize, ty: TensorType) {
    let x = activations(be, n, c.hidden);
    let mut y = be.alloc("y", n, c.hidden).expect("memory");
    let seconds = time(be, n, 0, &[], |be, step| {
        be.moe(&mut y, &x, moe, step).expect("experts");
    });
    let experts = (c.n_experts_used + 1) * 6 * c.hidden * c.expert_inner;
    report(&format!("experts {}", ty.name()), n, seconds, experts * n, 43);
}

/// A layer of each kind, and what their operations read.
struct Attention {
    kv: Kv,
    n: usize,
    pages: Vec<u32>,
    rows: Act<Buffer>,
    pools: [PoolInput<Buffer>; 3],
    compressors: [CompressorWeights<Cuda>; 3],
}

impl Attention {
    fn new(be: &mut Cuda, c: &Config, context: usize, n: usize) -> Self {
        let n_pages = context.div_ceil(PAGE) + 1;
        let layout = KvLayout::new(c, RowFormat::Model, 1, n_pages, n, false);
        let kv = be.alloc_kv(&layout).expect("memory for KV");
        let (dim, index) = (c.head_dim, c.indexer.head_dim);
        let compressor = |be: &mut Cuda, width: usize, ratio: usize| {
            let cols = width * if ratio == 4 { 2 } else { 1 };
            CompressorWeights {
                kv: be.load(&tensor(F16, 1, 16, 64)).expect("memory"),
                gate: be.load(&tensor(F16, 1, 16, 64)).expect("memory"),
                position_bias: be.load_vector(&tensor(F32, 1, ratio, cols)).expect("memory"),
                norm: be.load_vector(&tensor(F32, 1, 1, width)).expect("memory"),
                width,
                ratio,
            }
        };
        let pool = |be: &mut Cuda, cols: usize| PoolInput {
            kv: activations(be, n, cols),
            gate: activations(be, n, cols),
        };
        Self {
            kv,
            n,
            pages: (0..n_pages as u32).collect(),
            rows: activations(be, n, dim),
            pools: [pool(be, 2 * dim), pool(be, 2 * index), pool(be, dim)],
            compressors: [
                compressor(be, dim, 4),
                compressor(be, index, 4),
                compressor(be, dim, 128),
            ],
        }
    }

    fn stage(&mut self, be: &mut Cuda, rope: &model::Rope, step: &Step) {
        for layer in 0..3 {
            be.stage_window(&mut self.kv, layer, &self.rows, step).expect("stages");
        }
        let targets = [(1, Pooled::Attention), (1, Pooled::Index), (2, Pooled::Attention)];
        for (i, (layer, pooled)) in targets.into_iter().enumerate() {
            let (pool, w) = (&self.pools[i], &self.compressors[i]);
            be.compress(&mut self.kv, layer, pooled, pool, w, rope, step).expect("compresses");
        }
    }

    /// Positions `from` to `to`.
    fn fill(&mut self, be: &mut Cuda, from: usize, to: usize) {
        let rope = Preset::Flash.config().rope_compress;
        for first in (from..to).step_by(self.n) {
            let n = self.n.min(to - first);
            let step = step(n, first, &self.pages);
            be.begin(&step).expect("begins");
            self.stage(be, &rope, &step);
            be.submit().expect("runs");
            be.commit(&mut self.kv, &step, 0..3, &[n as u32]).expect("commits");
        }
    }

    fn times(&mut self, be: &mut Cuda, c: &Config, at: usize) {
        let (n, pages) = (self.n, self.pages.clone());
        println!("{n} rows from {at} on");
        let q = activations(be, n, c.n_heads * c.head_dim);
        let mut heads = be.alloc("heads", n, q.cols).expect("memory");
        let queries = activations(be, n, c.indexer.n_heads * c.indexer.head_dim);
        let weights = activations(be, n, c.indexer.n_heads);
        let mut ids = be.alloc_ids("ids", n, c.indexer.top_k).expect("memory");
        let sinks = be.load_vector(&tensor(F32, 1, 1, c.n_heads)).expect("memory");
        let seconds = time(be, n, at, &pages, |be, step| self.stage(be, &c.rope_compress, step));
        report("rows, closing", n, seconds, 0, 21);
        let kv = &self.kv;
        let seconds = time(be, n, at, &pages, |be, step| {
            be.index_top_k(&mut ids, kv, 1, (&queries, &weights), step).expect("selects");
        });
        let keys = (at + n / 2) / 4;
        let flops = 2 * queries.cols * keys * n;
        report("index, top 512", n, seconds, flops, 21);
        let attended = |keys: usize| 4 * q.cols * (keys + c.window.min(at + n / 2)) * n;
        let picked = c.indexer.top_k.min(keys);
        let hca = (at + n / 2) / 128;
        for (name, layer, selected, keys, count) in [
            ("window", 0, Selected::WindowOnly, 0, 2),
            ("picked", 1, Selected::Picked(&ids), picked, 21),
            ("all of 128", 2, Selected::All, hca, 20),
        ] {
            let mut selected = Some(selected);
            let seconds = time(be, n, at, &pages, |be, step| {
                let again = match selected.as_ref() {
                    Some(Selected::Picked(ids)) => Selected::Picked(ids),
                    Some(Selected::All) => Selected::All,
                    _ => Selected::WindowOnly,
                };
                be.attend(&mut heads, &q, kv, layer, again, &sinks, step).expect("attends");
            });
            selected = None;
            let _ = selected;
            report(&format!("attend {name}"), n, seconds, attended(keys), count);
        }
    }
}

/// A weight of codes that are no zeros under scales near one hundredth.
fn tensor(ty: TensorType, experts: usize, rows: usize, cols: usize) -> HostTensor {
    let bytes = ty.row_bytes(cols).unwrap_or(4 * cols) * rows * experts;
    // Every sixteen bits are a small positive half, whichever of them a format takes for a scale.
    let word = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 16) as u16 & 0x23ff | 0x2000;
    let mut data = Vec::with_capacity(bytes);
    match ty {
        F32 => (0..bytes / 4).for_each(|i| data.extend((1.0 + (i % 7) as f32 / 8.0).to_le_bytes())),
        _ => (0..bytes.div_ceil(2)).for_each(|i| data.extend(word(i).to_le_bytes())),
    }
    data.truncate(bytes);
    let data = TensorData::from_vec(data);
    HostTensor { name: "made up".to_owned(), ty, rows, cols, experts, data }
}

/// Values that differ in every row.
fn activations(be: &mut Cuda, n: usize, cols: usize) -> Act<Buffer> {
    let mut act = be.alloc("x", n, cols).expect("memory");
    let value = |i: usize| {
        let bits = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (bits as f32 / (1 << 23) as f32) - 1.0
    };
    be.write(&mut act, 0, &(0..n * cols).map(value).collect::<Vec<f32>>()).expect("writes");
    act
}

fn step(n: usize, at: usize, pages: &[u32]) -> Step {
    let mut step = Step::default();
    let tokens: Vec<u32> = (0..n as u32).collect();
    step.push_span(0, at as u32, &tokens, pages);
    step
}

/// Seconds of `run`: the least of some, which are queued in turn.
fn time(
    be: &mut Cuda,
    n: usize,
    at: usize,
    pages: &[u32],
    mut run: impl FnMut(&mut Cuda, &Step),
) -> f64 {
    let step = step(n, at, pages);
    let mut wait = be.alloc("wait", 1, 1).expect("memory");
    let mut least = f64::INFINITY;
    for i in 0..5 {
        be.write(&mut wait, 0, &[i as f32]).expect("writes");
        be.read(&wait, 0, &mut [0.0]).expect("waits");
        let start = Instant::now();
        be.begin(&step).expect("begins");
        run(be, &step);
        be.submit().expect("runs");
        be.read(&wait, 0, &mut [0.0]).expect("waits");
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

fn report(name: &str, n: usize, seconds: f64, flops: usize, count: usize) {
    let rate = flops as f64 / seconds / 1e12;
    let token = seconds / n as f64 * count as f64 * 1e6;
    println!(
        "{name:16} {n:5} rows {:9.1} us {rate:7.1} TFLOP/s  x{count:2} {token:7.3} us/token",
        seconds * 1e6
    );
}
