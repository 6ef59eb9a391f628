//! What bytes and operations allow: a model's work for a token, and the rates of this machine.

use std::num::NonZeroUsize;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use gguf::Gguf;
use model::{Config, classify};
use quant::TensorType;
use quant::dot::{ActFormat, Acts, Kernels, Out, RoundedRows, Scratch, Weights};

use crate::inspect::spec_of;
use crate::layout::TensorSpec;
use crate::plan::{RowFormat, Work, kv};

/// The work of a model's tokens.
#[derive(Clone, Debug)]
pub struct Roofline {
    config: Config,
    /// Work of one decoded token.
    pub work: Work,
    /// Bytes of all weights but the embedding.
    all_bytes: u64,
    /// Operations by storage type.
    flops: Vec<(TensorType, u64)>,
}

/// What a machine can do at most, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// GB/s of plain reads.
    pub bandwidth: f64,
    /// GFLOP/s on this model's mixture of types, from the caches; unknown for some devices.
    pub arithmetic: Option<f64>,
}

impl Roofline {
    /// Sums a file's work. Drafting blocks are left out.
    pub fn new(gguf: &Gguf, config: &Config) -> Self {
        let main = gguf.tensors().iter().filter_map(|info| {
            let class = classify(&info.name);
            let draft = class.draft || class.block.is_some_and(|b| b >= config.n_layers());
            (!draft && class.role != model::Role::Other).then(|| spec_of(info, class.role))
        });
        let specs: Vec<TensorSpec> = main.collect();
        let mut flops: Vec<(TensorType, u64)> = Vec::new();
        for spec in &specs {
            let n = spec.flops_per_token(config);
            match flops.iter_mut().find(|(ty, _)| *ty == spec.ty) {
                Some((_, sum)) => *sum += n,
                None => flops.push((spec.ty, n)),
            }
        }
        flops.retain(|(_, n)| *n > 0);
        let embedding = |spec: &&TensorSpec| spec.role != model::Role::Embedding;
        let all_bytes = specs.iter().filter(embedding).map(TensorSpec::bytes).sum();
        Self { config: config.clone(), work: Work::of(config, &specs), all_bytes, flops }
    }

    /// Bytes of weights and KV that decoding a token reads after `context` tokens.
    pub fn decode_bytes(&self, context: usize) -> u64 {
        self.work.bytes + kv::read_per_token(&self.config, RowFormat::Model, context as u64)
    }

    /// Operations of one token after `context` tokens.
    pub fn flops(&self, context: usize) -> u64 {
        self.work.flops + kv::flops_per_token(&self.config, context as u64)
    }

    /// Tokens a second that the memory allows.
    pub fn decode(&self, ceilings: Ceilings, context: usize) -> f64 {
        ceilings.bandwidth * 1e9 / self.decode_bytes(context) as f64
    }

    /// Tokens a second of `streams` sequences at once that the memory allows: dense weights are read
    /// once a step, and every expert that one of them wants, if they choose independently.
    pub fn decode_streams(&self, ceilings: Ceilings, context: usize, streams: usize) -> f64 {
        let kv = self.decode_bytes(context) - self.work.bytes;
        let bytes = self.step_bytes(streams) + streams as f64 * kv as f64;
        streams as f64 * ceilings.bandwidth * 1e9 / bytes
    }

    /// Bytes of weights that a step of `rows` tokens reads, if each is read once and rows choose
    /// experts independently.
    fn step_bytes(&self, rows: usize) -> f64 {
        let c = &self.config;
        let missed = 1.0 - c.n_experts_used as f64 / c.n_experts as f64;
        let experts = self.work.expert_bytes as f64 * c.n_experts as f64 / c.n_experts_used as f64;
        let dense = self.all_bytes as f64 - experts;
        dense + experts * (1.0 - missed.powi(rows as i32))
    }

    /// Tokens a second at which a prompt of `n` tokens could be read in chunks, if every chunk
    /// read each weight that it needs once and computed meanwhile.
    pub fn prefill(&self, ceilings: Ceilings, context: usize, n: usize, chunk: usize) -> f64 {
        let seconds = |rows: usize| {
            let reading = self.step_bytes(rows) / (ceilings.bandwidth * 1e9);
            let flops = rows as f64 * self.flops(context + n / 2) as f64;
            ceilings.arithmetic.map_or(reading, |rate| reading.max(flops / (rate * 1e9)))
        };
        let whole = n / chunk;
        let rest = if n.is_multiple_of(chunk) { 0.0 } else { seconds(n % chunk) };
        n as f64 / (whole as f64 * seconds(chunk.min(n)) + rest)
    }

    /// GFLOP/s that `n_threads` threads reach on this model's types when nothing has to come from
    /// memory: each type's share of the operations at the rate of its product kernel.
    pub fn arithmetic(&self, n_threads: NonZeroUsize) -> f64 {
        let total: u64 = self.flops.iter().map(|(_, n)| n).sum();
        let time = |&(ty, n): &(TensorType, u64)| n as f64 / product_rate(ty, n_threads.get());
        total as f64 / self.flops.iter().map(time).sum::<f64>()
    }
}

/// One matrix that stays in a core's cache, with as many activation rows.
const ROWS: usize = 64;
const COLS: usize = 2048;
/// How long each of several rounds computes; the fastest counts.
const ROUND: Duration = Duration::from_millis(15);

/// GFLOP/s of all threads together.
fn product_rate(ty: TensorType, n_threads: usize) -> f64 {
    let gate = Barrier::new(n_threads);
    let rates = std::thread::scope(|scope| {
        let work = || thread_rate(ty, &gate);
        let workers: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect::<Vec<f64>>()
    });
    rates.iter().sum()
}

fn thread_rate(ty: TensorType, gate: &Barrier) -> f64 {
    let kernels = Kernels::detect();
    let bytes = vec![0x11; ty.row_bytes(COLS).unwrap_or(0) * ROWS];
    let weights = Weights::new(ty, &bytes, ROWS, COLS);
    let x: Vec<f32> = (0..ROWS * COLS).map(|i| (i % 97) as f32 * 0.01 - 0.5).collect();
    let format = ActFormat::of(ty);
    let rounded = (format != ActFormat::F32).then(|| {
        let mut rows = RoundedRows::with_capacity(format, ROWS * COLS);
        rows.reset(ROWS, COLS);
        x.chunks(COLS).enumerate().for_each(|(i, x)| kernels.quantize(x, &mut rows.row_mut(i)));
        rows
    });
    let acts = match &rounded {
        Some(rows) => Acts::Rounded { rows, index: None },
        None => Acts::F32 { values: &x, cols: COLS, stride: COLS, index: None },
    };
    let (mut y, mut scratch) = (vec![0.0; ROWS * ROWS], Scratch::new());
    let mut best = 0.0f64;
    for _ in 0..4 {
        gate.wait();
        let (start, mut n) = (Instant::now(), 0u32);
        while start.elapsed() < ROUND {
            // Types without products have no operations, so they never come here.
            let Ok(weights) = &weights else { return f64::INFINITY };
            kernels.matmul(weights, &acts, &mut Out::new(&mut y, ROWS, ROWS, ROWS), &mut scratch);
            n += 1;
        }
        let flops = 2.0 * (ROWS * ROWS * COLS) as f64 * f64::from(n);
        best = best.max(flops / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(test)]
mod tests {
    use model::Preset;

    use super::*;
    use crate::recipe::Recipe;
    use crate::synth::{Request, Synth};

    fn mid() -> Roofline {
        let request = Request { preset: Preset::Mid, recipe: Recipe::Q2, n_layers: None, seed: 0 };
        let synth = Synth::new(request).unwrap();
        let config = synth.config().clone();
        Roofline::new(&synth.into_gguf().unwrap(), &config)
    }

    #[test]
    fn decode_is_bytes_over_bandwidth_and_prefill_the_slower_of_two() {
        let roofline = mid();
        let memory = Ceilings { bandwidth: 10.0, arithmetic: None };
        let decode = roofline.decode(memory, 0);
        assert!((decode * roofline.work.bytes as f64 / 1e10 - 1.0).abs() < 1e-9, "{decode}");
        let alone = roofline.decode_streams(memory, 8192, 1) / roofline.decode(memory, 8192);
        assert!((alone - 1.0).abs() < 0.02, "{alone}");
        let eight = roofline.decode_streams(memory, 8192, 8) / roofline.decode(memory, 8192);
        assert!(eight > 2.0 && eight < 8.0, "{eight}");
        // One row reads what a token reads; a chunk of 512 nearly everything, once.
        let one = roofline.prefill(memory, 0, 1, 1);
        assert!((one / decode - 1.0).abs() < 0.02, "{one} {decode}");
        let many = roofline.prefill(memory, 0, 512, 512);
        assert!((many / (512.0 * 1e10 / roofline.all_bytes as f64) - 1.0).abs() < 0.01, "{many}");
        let both = Ceilings { arithmetic: Some(100.0), ..memory };
        let computed = roofline.prefill(both, 0, 512, 512);
        let flops = 100e9 / roofline.flops(256) as f64;
        assert!((computed / flops - 1.0).abs() < 1e-9, "{computed} {flops}");
    }

    #[test]
    fn arithmetic_is_measured() {
        let rate = mid().arithmetic(NonZeroUsize::MIN);
        assert!((0.01..1e6).contains(&rate), "{rate} GFLOP/s");
    }
}
