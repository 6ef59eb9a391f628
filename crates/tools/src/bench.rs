//! Speed of a loaded model at one context.

use std::time::{Duration, Instant};

use engine::{Draw, Engine, Feed, Wanted, argmax};
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
    /// Sequences that generate at once, each at the context; the engine has as many slots.
    pub streams: usize,
}

/// Tokens of the prompt whose first answer is timed.
pub const FIRST_PROMPT: usize = 20;

/// Seconds until the first token behind a short prompt is chosen; to be asked first, so that nothing
/// is warm that loading has not warmed. The first slot is emptied before and after.
///
/// # Errors
/// The engine's.
pub fn first_token(engine: &mut dyn Engine) -> engine::Result<f64> {
    let n = FIRST_PROMPT.min(engine.info().options.context);
    engine.release(0);
    let start = Instant::now();
    read(engine, 0, 5, n, &mut |_| {})?;
    std::hint::black_box(argmax(engine.logits(0)));
    let seconds = start.elapsed().as_secs_f64();
    engine.release(0);
    Ok(seconds)
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
    /// Tokens generated a second by all streams, from the median time of a step.
    pub decode: f64,
    /// Slowest step over the median one.
    pub jitter: f64,
}

impl Bench {
    /// Positions that the engine's context must hold.
    pub fn positions(&self) -> usize {
        self.context.max(1) + self.generate + self.prompt + 1
    }

    /// The same at the largest context that leaves room for what follows it, where it does not fit into
    /// `context_max`.
    #[must_use]
    pub fn within(self, context_max: usize) -> Self {
        let rest = self.positions() - self.context.max(1);
        Self { context: self.context.min(context_max.saturating_sub(rest)), ..self }
    }

    /// Steps of [`Bench::run`] that its caller is told of: tokens, whatever is done with them.
    pub fn steps(&self) -> usize {
        let held = if self.filled { 0 } else { self.context };
        self.streams * held + self.generate + self.prompt
    }

    /// Times generation and the reading of a prompt, which follows it; from nothing, the prompt
    /// comes first, into the first slot. Slots are emptied before and after, and nothing is reused.
    /// `advance` is told of tokens that are done; those of all streams count as one.
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
            read(engine, 0, 3, self.prompt.min(64), &mut |_| {})?;
            engine.release(0);
            prefill = Some(self.time_prompt(engine, advance)?);
        }
        for slot in 0..self.streams {
            self.hold(engine, slot, advance)?;
        }
        let times = self.generate(engine, advance)?;
        let prefill_context = if prefill.is_some() { 0 } else { engine.tokens(0).len() };
        if prefill.is_none() && self.prompt > 0 {
            prefill = Some(self.time_prompt(engine, advance)?);
        }
        (0..self.streams).for_each(|slot| engine.release(slot));
        let seconds = |i: usize| times.get(i).map_or(f64::NAN, Duration::as_secs_f64);
        let median = seconds(times.len() / 2);
        let jitter = seconds(times.len().saturating_sub(1)) / median;
        let decode = self.streams as f64 / median;
        Ok(Measured { context: self.context, prefill_context, prefill, decode, jitter })
    }

    fn hold(
        &self,
        engine: &mut dyn Engine,
        slot: usize,
        advance: &mut dyn FnMut(usize),
    ) -> engine::Result<()> {
        engine.release(slot);
        // Streams read different tokens, so that they want different experts.
        let (n, seed) = (self.context.max(1), 2 + 2 * slot as u64);
        if !self.filled {
            return read(engine, slot, seed, n, advance);
        }
        // The last token is read, so that there are logits to go on from.
        engine.fill(slot, n - 1, 0)?;
        read(engine, slot, seed, 1, &mut |_| {})
    }

    /// Times of steps that give every stream a token, ascending. A stream's first token is made up.
    fn generate(
        &self,
        engine: &mut dyn Engine,
        advance: &mut dyn FnMut(usize),
    ) -> engine::Result<Vec<Duration>> {
        let mut tokens: Vec<u32> = match self.streams {
            1 => vec![argmax(engine.logits(0))],
            n => (0..n as u64).map(|slot| spread(slot, engine.info().n_vocab)).collect(),
        };
        let mut times = Vec::with_capacity(self.generate);
        // The best token is what is generated, wherever it is chosen.
        let samples = engine.info().samples;
        let wanted = if samples { Wanted::Token(Draw::GREEDY) } else { Wanted::Last(1) };
        let best = |engine: &dyn Engine, i: usize| match samples {
            true => engine.chosen(i),
            false => argmax(engine.logits(i)),
        };
        for _ in 0..self.generate {
            let feed = |(slot, token)| Feed { slot, tokens: std::slice::from_ref(token), wanted };
            let feeds: Vec<Feed<'_>> = tokens.iter().enumerate().map(feed).collect();
            let start = Instant::now();
            engine.feed(&feeds)?;
            engine.commit(&vec![1; self.streams])?;
            times.push(start.elapsed());
            tokens = (0..self.streams).map(|i| best(engine, i)).collect();
            advance(1);
        }
        times.sort_unstable();
        Ok(times)
    }

    fn time_prompt(
        &self,
        engine: &mut dyn Engine,
        advance: &mut dyn FnMut(usize),
    ) -> engine::Result<f64> {
        let start = Instant::now();
        read(engine, 0, 1, self.prompt, advance)?;
        Ok(self.prompt as f64 / start.elapsed().as_secs_f64())
    }
}

/// An id anywhere in the vocabulary.
fn spread(i: u64, n_vocab: usize) -> u32 {
    ((i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % n_vocab) as u32
}

/// Feeds `n` spread-out ids, so that hash routing and the embedding see the whole vocabulary.
fn read(
    engine: &mut dyn Engine,
    slot: usize,
    seed: u64,
    n: usize,
    advance: &mut dyn FnMut(usize),
) -> engine::Result<()> {
    let info = engine.info();
    let tokens: Vec<u32> = (0..n as u64).map(|i| spread(i + (seed << 20), info.n_vocab)).collect();
    for part in tokens.chunks(info.options.step_rows) {
        engine.feed(&[Feed { slot, tokens: part, wanted: Wanted::Last(1) }])?;
        engine.commit(&[part.len() as u32])?;
        advance(part.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_that_fills_the_model_leaves_room_for_what_is_generated() {
        let bench = Bench { prompt: 512, generate: 32, context: 1 << 20, filled: true, streams: 1 };
        let fits = bench.within(1 << 20);
        assert_eq!(fits.positions(), 1 << 20);
        assert_eq!(fits.context, (1 << 20) - 545);
        let short = Bench { context: 8, ..bench };
        assert_eq!(short.within(1 << 20), short);
    }
}
