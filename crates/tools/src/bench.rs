//! Speed of a loaded model at one context.

use std::time::{Duration, Instant};

use engine::{Engine, Feed, Wanted, argmax};
use serde::Serialize;

/// What to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bench {
    /// Tokens of the prompt whose reading is timed; 0 times none.
    pub prompt: usize,
    /// Tokens generated.
    pub generate: usize,
    /// Tokens held before.
    pub context: usize,
    /// Whether these are made up ([`Engine::fill`]) instead of read.
    pub filled: bool,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Tokens held before generation.
    pub context: usize,
    /// Tokens held before the prompt was read.
    pub prefill_context: usize,
    /// Tokens read a second; `None` when no prompt was timed.
    pub prefill: Option<f64>,
    /// Tokens generated a second, from the median time of a step.
    pub decode: f64,
    /// Slowest step over the median one.
    pub jitter: f64,
}

impl Bench {
    /// Positions that the engine's context must hold.
    pub fn positions(&self) -> usize {
        self.context.max(1) + self.generate + self.prompt + 1
    }

    /// Steps of [`Bench::run`] that its caller is told of: tokens, whatever is done with them.
    pub fn steps(&self) -> usize {
        let held = if self.filled { 0 } else { self.context };
        held + self.generate + self.prompt
    }

    /// Times generation and the reading of a prompt, which follows it; from nothing, the prompt
    /// comes first. The slot is emptied before and after, and nothing is reused. `advance` is told
    /// of tokens that are done.
    ///
    /// # Errors
    /// The engine's.
    pub fn run(
        &self,
        engine: &mut dyn Engine,
        advance: &mut dyn FnMut(usize),
    ) -> engine::Result<Measured> {
        let mut prefill = None;
        if self.context == 0 && self.prompt > 0 {
            // Other tokens than those that are timed: pages of the file are touched, nothing is
            // reused.
            engine.release(0);
            read(engine, 3, self.prompt.min(64), &mut |_| {})?;
            engine.release(0);
            prefill = Some(self.time_prompt(engine, advance)?);
        }
        self.hold(engine, advance)?;
        let mut times = Vec::with_capacity(self.generate);
        for _ in 0..self.generate {
            let token = argmax(engine.logits(0));
            let start = Instant::now();
            engine.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }])?;
            engine.commit(&[1])?;
            times.push(start.elapsed());
            advance(1);
        }
        let prefill_context = if prefill.is_some() { 0 } else { engine.tokens(0).len() };
        if prefill.is_none() && self.prompt > 0 {
            prefill = Some(self.time_prompt(engine, advance)?);
        }
        engine.release(0);
        times.sort_unstable();
        let seconds = |i: usize| times.get(i).map_or(f64::NAN, Duration::as_secs_f64);
        let median = seconds(times.len() / 2);
        let jitter = seconds(times.len().saturating_sub(1)) / median;
        let decode = 1.0 / median;
        Ok(Measured { context: self.context, prefill_context, prefill, decode, jitter })
    }

    fn hold(&self, engine: &mut dyn Engine, advance: &mut dyn FnMut(usize)) -> engine::Result<()> {
        engine.release(0);
        let n = self.context.max(1);
        if !self.filled {
            return read(engine, 2, n, advance);
        }
        // The last token is read, so that there are logits to go on from.
        engine.fill(0, n - 1, 0)?;
        read(engine, 2, 1, &mut |_| {})
    }

    fn time_prompt(
        &self,
        engine: &mut dyn Engine,
        advance: &mut dyn FnMut(usize),
    ) -> engine::Result<f64> {
        let start = Instant::now();
        read(engine, 1, self.prompt, advance)?;
        Ok(self.prompt as f64 / start.elapsed().as_secs_f64())
    }
}

/// Feeds `n` spread-out ids, so that hash routing and the embedding see the whole vocabulary.
fn read(
    engine: &mut dyn Engine,
    seed: u64,
    n: usize,
    advance: &mut dyn FnMut(usize),
) -> engine::Result<()> {
    let info = engine.info();
    let id = |i: u64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % info.n_vocab;
    let tokens: Vec<u32> = (0..n as u64).map(|i| id(i + (seed << 20)) as u32).collect();
    for part in tokens.chunks(info.options.step_rows) {
        engine.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(1) }])?;
        engine.commit(&[part.len() as u32])?;
        advance(part.len());
    }
    Ok(())
}
