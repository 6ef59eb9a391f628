//! Speed of a loaded model, held against what its bytes and the machine's memory allow.

use std::time::{Duration, Instant};

use engine::{Engine, Feed, Wanted, argmax};
use gguf::{Gguf, TensorInfo};
use model::{Config, Role, classify};
use serde::Serialize;

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Tokens of the prompt whose reading is timed; 0 times none.
    pub prompt: usize,
    /// Tokens generated at each depth.
    pub generate: usize,
    /// Tokens held before generation is timed.
    pub depth: usize,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Tokens held before generation.
    pub depth: usize,
    /// Tokens read a second; 0 when no prompt was timed.
    pub prefill: f64,
    /// Tokens generated a second, from the median time of a step.
    pub decode: f64,
    /// Slowest step over the median one.
    pub jitter: f64,
}

impl Bench {
    /// Positions that the engine's context must hold.
    pub fn context(&self) -> usize {
        self.prompt.max(self.depth + self.generate) + 1
    }

    /// Times the prompt, then generation. The slot is emptied first; nothing is reused.
    ///
    /// # Errors
    /// The engine's.
    pub fn run(&self, engine: &mut dyn Engine) -> engine::Result<Measured> {
        let prefill = if self.prompt > 0 { self.time_prompt(engine)? } else { 0.0 };
        engine.release(0);
        let n_vocab = engine.info().n_vocab;
        read(engine, &tokens(self.depth.max(1), n_vocab, 2))?;
        let mut times = Vec::with_capacity(self.generate);
        for _ in 0..self.generate {
            let token = argmax(engine.logits(0));
            let start = Instant::now();
            engine.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }])?;
            engine.commit(&[1])?;
            times.push(start.elapsed());
        }
        engine.release(0);
        times.sort_unstable();
        let seconds = |i: usize| times.get(i).map_or(f64::NAN, Duration::as_secs_f64);
        let median = seconds(times.len() / 2);
        let slowest = seconds(times.len().saturating_sub(1));
        Ok(Measured { depth: self.depth, prefill, decode: 1.0 / median, jitter: slowest / median })
    }

    fn time_prompt(&self, engine: &mut dyn Engine) -> engine::Result<f64> {
        let n_vocab = engine.info().n_vocab;
        engine.release(0);
        // Other tokens than those that are timed: pages of the file are touched, nothing is reused.
        read(engine, &tokens(self.prompt.min(64), n_vocab, 3))?;
        engine.release(0);
        let prompt = tokens(self.prompt, n_vocab, 1);
        let start = Instant::now();
        read(engine, &prompt)?;
        Ok(self.prompt as f64 / start.elapsed().as_secs_f64())
    }
}

fn read(engine: &mut dyn Engine, tokens: &[u32]) -> engine::Result<()> {
    for part in tokens.chunks(engine.info().options.step_rows) {
        engine.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(1) }])?;
        engine.commit(&[part.len() as u32])?;
    }
    Ok(())
}

/// Spread-out ids, so that hash routing and the embedding see the whole vocabulary.
fn tokens(n: usize, n_vocab: usize, seed: u64) -> Vec<u32> {
    let id = |i: u64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % n_vocab;
    (0..n as u64).map(|i| id(i + (seed << 20)) as u32).collect()
}

/// Bytes of weights that one generated token reads: everything but the embedding's other rows and
/// the experts that were not chosen.
pub fn weight_bytes_per_token(gguf: &Gguf, config: &Config) -> u64 {
    gguf.tensors().iter().map(|tensor| tensor_bytes_per_token(tensor, config)).sum()
}

fn tensor_bytes_per_token(tensor: &TensorInfo, config: &Config) -> u64 {
    let class = classify(&tensor.name);
    if class.draft || class.block.is_some_and(|block| block >= config.n_layers()) {
        return 0;
    }
    match class.role {
        Role::Embedding => tensor.n_bytes / config.n_vocab as u64,
        Role::RoutedExpert => {
            tensor.n_bytes / config.n_experts as u64 * config.n_experts_used as u64
        }
        // A hash table is read one row of ids a token.
        Role::Router if tensor.name.contains("tid2eid") => 4 * config.n_experts_used as u64,
        Role::Other => 0,
        _ => tensor.n_bytes,
    }
}
