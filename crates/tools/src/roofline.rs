//! What bytes and operations allow: a model's work for a token, and the rates of this machine.

use std::num::NonZeroUsize;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use gguf::Gguf;
use model::{Config, Role, classify};
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
    /// Tensors of the main model.
    specs: Vec<TensorSpec>,
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
            (!draft && class.role != Role::Other).then(|| spec_of(info, class.role))
        });
        let specs: Vec<TensorSpec> = main.collect();
        Self { config: config.clone(), work: Work::of(config, &specs), specs }
    }

    /// Bytes of weights and KV that decoding a token reads after `context` tokens.
    pub fn decode_bytes(&self, context: usize) -> u64 {
        let kv = kv::read_per_token(&self.config, RowFormat::Model, context as u64);
        self.weight_bytes(context) + kv
    }

    /// Bytes of weights that it reads: the indexer's queries are for a choice, and while it picks every row there
    /// is none.
    fn weight_bytes(&self, context: usize) -> u64 {
        let unread = |spec: &TensorSpec| !self.is_needed(spec, context);
        let unread = self.specs.iter().filter(|spec| unread(spec));
        self.work.bytes - unread.map(|spec| spec.bytes_per_token(&self.config)).sum::<u64>()
    }

    fn is_needed(&self, spec: &TensorSpec, context: usize) -> bool {
        spec.role != Role::Indexer || (context + 1) / 4 > self.config.indexer.top_k
    }

    /// Operations of one token after `context` tokens.
    pub fn flops(&self, context: usize) -> u64 {
        let needed = self.specs.iter().filter(|spec| self.is_needed(spec, context));
        needed.map(|spec| spec.flops_per_token(&self.config)).sum::<u64>()
            + kv::flops_per_token(&self.config, context as u64)
    }

    /// Operations of one of the `n` tokens of a prompt, in the middle and without what only its last token needs:
    /// of the last layer all but its KV rows, and logits.
    pub fn prompt_flops(&self, context: usize, n: usize) -> u64 {
        let (c, middle) = (&self.config, context + n / 2);
        let last_only =
            |spec: &&TensorSpec| self.is_needed(spec, middle) && self.is_last_only(spec);
        let last_only = self.specs.iter().filter(last_only).map(|spec| spec.flops_per_token(c));
        let mut last_layer = c.clone();
        last_layer.layers.drain(..c.n_layers().saturating_sub(1));
        let attention = kv::flops_per_token(&last_layer, middle as u64);
        let spared = last_only.sum::<u64>() + attention;
        self.flops(middle) - spared * (n as u64).saturating_sub(1) / n.max(1) as u64
    }

    fn is_last_only(&self, spec: &TensorSpec) -> bool {
        let block = classify(&spec.name).block;
        let name = |part| spec.name.contains(part);
        match spec.role {
            Role::Head => true,
            Role::HyperConnection if name(".hc_attn_") => false,
            Role::Attention if name(".attn_kv.") => false,
            Role::Compressor => false,
            Role::HyperConnection if block.is_none() => true,
            _ => block.is_some_and(|block| block + 1 == self.config.n_layers()),
        }
    }

    /// Tokens a second that the memory allows.
    pub fn decode(&self, ceilings: Ceilings, context: usize) -> f64 {
        ceilings.bandwidth * 1e9 / self.decode_bytes(context) as f64
    }

    /// Tokens a second of `streams` sequences at once that the memory allows: dense weights are read
    /// once a step, and every expert that one of them wants, if they choose independently.
    pub fn decode_streams(&self, ceilings: Ceilings, context: usize, streams: usize) -> f64 {
        let kv = self.decode_bytes(context) - self.weight_bytes(context);
        let bytes = self.step_bytes(context, streams) + streams as f64 * kv as f64;
        streams as f64 * ceilings.bandwidth * 1e9 / bytes
    }

    /// Bytes of weights that a step of `rows` tokens reads, if each is read once and rows choose
    /// experts independently.
    fn step_bytes(&self, context: usize, rows: usize) -> f64 {
        let c = &self.config;
        let read =
            |spec: &&TensorSpec| spec.role != Role::Embedding && self.is_needed(spec, context);
        let all: u64 = self.specs.iter().filter(read).map(TensorSpec::bytes).sum();
        let missed = 1.0 - c.n_experts_used as f64 / c.n_experts as f64;
        let experts = self.work.expert_bytes as f64 * c.n_experts as f64 / c.n_experts_used as f64;
        let dense = all as f64 - experts;
        dense + experts * (1.0 - missed.powi(rows as i32))
    }

    /// Tokens a second at which a prompt of `n` tokens could be read in chunks, if every chunk
    /// read each weight that it needs once and computed meanwhile.
    pub fn prefill(&self, ceilings: Ceilings, context: usize, n: usize, chunk: usize) -> f64 {
        let seconds = |rows: usize| {
            let reading = self.step_bytes(context + n / 2, rows) / (ceilings.bandwidth * 1e9);
            let flops = rows as f64 * self.prompt_flops(context, n) as f64;
            ceilings.arithmetic.map_or(reading, |rate| reading.max(flops / (rate * 1e9)))
        };
        let whole = n / chunk;
        let rest = if n.is_multiple_of(chunk) { 0.0 } else { seconds(n % chunk) };
        n as f64 / (whole as f64 * seconds(chunk.min(n)) + rest)
    }

    /// GFLOP/s that `n_threads` threads reach on this model's types when nothing has to come from
    /// memory: each type's share of the operations at the rate of its product kernel.
    pub fn arithmetic(&self, n_threads: NonZeroUsize) -> f64 {
        let mut flops: Vec<(TensorType, u64)> = Vec::new();
        for spec in &self.specs {
            let n = spec.flops_per_token(&self.config);
            match flops.iter_mut().find(|(ty, _)| *ty == spec.ty) {
                Some((_, sum)) => *sum += n,
                None => flops.push((spec.ty, n)),
            }
        }
        flops.retain(|(_, n)| *n > 0);
        let total: u64 = flops.iter().map(|(_, n)| n).sum();
        let time = |&(ty, n): &(TensorType, u64)| n as f64 / product_rate(ty, n_threads.get());
        total as f64 / flops.iter().map(time).sum::<f64>()
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
        assert!((decode * roofline.weight_bytes(0) as f64 / 1e10 - 1.0).abs() < 1e-9, "{decode}");
        let alone = roofline.decode_streams(memory, 8192, 1) / roofline.decode(memory, 8192);
        assert!((alone - 1.0).abs() < 0.02, "{alone}");
        let eight = roofline.decode_streams(memory, 8192, 8) / roofline.decode(memory, 8192);
        assert!(eight > 2.0 && eight < 8.0, "{eight}");
        // One row reads what a token reads; a chunk of 512 nearly everything, once.
        let one = roofline.prefill(memory, 0, 1, 1);
        assert!((one / decode - 1.0).abs() < 0.02, "{one} {decode}");
        let many = roofline.prefill(memory, 0, 512, 512);
        let once = roofline.step_bytes(0, 1 << 16);
        assert!((many / (512.0 * 1e10 / once) - 1.0).abs() < 0.01, "{many}");
        let both = Ceilings { arithmetic: Some(100.0), ..memory };
        let computed = roofline.prefill(both, 0, 512, 512);
        let flops = 100e9 / roofline.prompt_flops(0, 512) as f64;
        assert!((computed / flops - 1.0).abs() < 1e-9, "{computed} {flops}");
    }

    /// By hand, from the shape: 8 layers of 4096 channels, 6 experts and a shared one of 2048.
    #[test]
    fn work_that_nobody_needs_is_not_counted() {
        let roofline = mid();
        let queries = 3 * (1024 * 8192 + 4096 * 64);
        let skipped = roofline.flops(1 << 20) - kv::flops_per_token(&roofline.config, 1 << 20);
        let skipped = skipped - (roofline.flops(0) - kv::flops_per_token(&roofline.config, 0));
        assert_eq!(skipped, 2 * queries);
        assert_eq!(roofline.weight_bytes(1 << 20) - roofline.weight_bytes(0), 2 * queries);
        // One token is the last one.
        assert_eq!(roofline.prompt_flops(0, 1), roofline.flops(0));
        // The last layer's queries, output, experts, router and second mixing; the head's mixing and matrix.
        let layer = 4096 * 1024 + 1024 * 32768 + 4096 * 8192 + 8192 * 4096;
        let layer = layer + 7 * 3 * 4096 * 2048 + 32 * 4096 + 24 * 4 * 4096;
        let head = 4 * 4 * 4096 + 4096 * 4096;
        let spared = roofline.flops(512) - roofline.prompt_flops(0, 1024);
        let mut last = roofline.config.clone();
        last.layers.drain(..7);
        let attention = kv::flops_per_token(&last, 512);
        assert_eq!(spared, (2 * (layer + head) + attention) * 1023 / 1024);
    }

    #[test]
    fn arithmetic_is_measured() {
        let rate = mid().arithmetic(NonZeroUsize::MIN);
        assert!((0.01..1e6).contains(&rate), "{rate} GFLOP/s");
    }
}
