//! `cargo xtask load`: what many clients at once cost, on loopback, for a bounded time.

mod client;
mod cpu;
mod floor;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use crate::e2e::{Keid, Scripted, target_dir};
use client::Answer;
pub(crate) use client::{Leave, ask};

/// Measure the server under load, and compare with what it should be
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of the long run, at most 120
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=120))]
    seconds: u64,
    /// Run only these: streams, throughput, first-token, protocol, grammar
    only: Vec<String>,
}

/// One figure and its limit.
struct Figure {
    what: String,
    value: String,
    limit: &'static str,
    is_met: bool,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let wants = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        let mut figures = Vec::new();
        if ["streams", "throughput", "first-token"].iter().any(|name| wants(name)) {
            // A small budget for anchors is soon full, so that growth behind it is a leak.
            let keid = Keid::start(&target_dir()?, &["--anchors", "64"])?;
            if wants("throughput") {
                figures.push(throughput(&keid)?);
            }
            if wants("first-token") {
                figures.push(first_token(&keid)?);
            }
            if wants("streams") {
                figures.extend(streams(&keid, Duration::from_secs(self.seconds))?);
            }
        }
        if wants("protocol") {
            figures.push(protocol()?);
        }
        if wants("grammar") {
            figures.push(grammar()?);
        }
        for Figure { what, value, limit, is_met } in &figures {
            let verdict = if *is_met { "ok" } else { "MISSED" };
            println!("{what:<52}{value:>20}  {limit:<16}{verdict}");
        }
        match figures.iter().filter(|figure| !figure.is_met).count() {
            0 => Ok(()),
            n => bail!("{n} of {} figures are not what they should be", figures.len()),
        }
    }
}

fn sum(seed: u64) -> Value {
    let text = format!("What is {} + {}?", seed % 90 + 1, seed / 7 % 90 + 1);
    json!({
        "messages": [{"role": "user", "content": text}], "stream": true, "max_tokens": 200,
        "stream_options": {"include_usage": true},
    })
}

fn story(seed: u64) -> Value {
    let animal = ["fox", "cat", "dog", "owl", "bear", "mouse"][seed as usize % 6];
    let mut body = sum(seed);
    body["messages"][0]["content"] = format!("Tell me a story about a {animal}.").into();
    body["seed"] = seed.into();
    body
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    n_tokens: u64,
    n_answers: u64,
    n_left: u64,
    first_tokens: Vec<Duration>,
    errors: Vec<String>,
}

/// Which answers are not read to their end.
#[derive(Clone, Copy)]
enum Leaving {
    /// Every so many requests, one in the middle.
    Every(u64),
    /// Those that are not complete when the time is over, so that all clients are there until then.
    Late,
    Nobody,
}

/// Runs `n` clients until the time is over: each asks, reads, and asks again.
fn clients(url: &str, n: usize, time: Duration, leave: Leaving, body: fn(u64) -> Value) -> Seen {
    let seen = Mutex::new(Seen::default());
    let is_over = AtomicBool::new(false);
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for i in 0..n as u64 {
            let (seen, is_over) = (&seen, &is_over);
            scope.spawn(move || {
                let mut seed = i * 1_000_003;
                while !is_over.load(Ordering::Relaxed) {
                    seed += 1;
                    let leave = match leave {
                        Leaving::Every(n) if seed.is_multiple_of(n) => Leave::After(1 + seed % 40),
                        Leaving::Late => Leave::At(end),
                        Leaving::Every(_) | Leaving::Nobody => Leave::Never,
                    };
                    let answer = ask(url, &body(seed), leave);
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match answer {
                        Ok(Answer { n_tokens, first_token, is_whole, .. }) => {
                            seen.n_tokens += n_tokens;
                            seen.n_answers += u64::from(is_whole);
                            seen.n_left += u64::from(!is_whole);
                            seen.first_tokens.extend(first_token);
                        }
                        Err(error) => seen.errors.push(error.to_string()),
                    }
                }
            });
        }
        std::thread::sleep(time);
        is_over.store(true, Ordering::Relaxed);
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

const PHASE: Duration = Duration::from_secs(12);
/// Parts of a phase, taken in turn with those of another.
const ROUNDS: u32 = 4;

fn throughput(keid: &Keid) -> anyhow::Result<Figure> {
    let pace = |n| {
        let started = Instant::now();
        let seen = clients(keid.url(), n, PHASE / ROUNDS, Leaving::Late, story);
        if let Some(error) = seen.errors.first() {
            bail!("{error}");
        }
        Ok(seen.n_tokens as f64 / started.elapsed().as_secs_f64())
    };
    // In turn: a shared machine is faster in one minute than in the next.
    let (mut one, mut eight) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        one += pace(1)? / f64::from(ROUNDS);
        eight += pace(8)? / f64::from(ROUNDS);
    }
    Ok(Figure {
        what: format!("8 streams ({eight:.0} t/s) over one ({one:.0} t/s)"),
        value: format!("{:.2}", eight / one),
        limit: ">= 2.5",
        is_met: eight >= 2.5 * one,
    })
}

fn first_token(keid: &Keid) -> anyhow::Result<Figure> {
    let mut seen = clients(keid.url(), 16, PHASE, Leaving::Nobody, sum);
    if let Some(error) = seen.errors.first() {
        bail!("{error}");
    }
    seen.first_tokens.sort_unstable();
    let at = |share: f64| seen.first_tokens[(seen.first_tokens.len() as f64 * share) as usize];
    Ok(Figure {
        what: format!(
            "first token at 16 streams, p99 of {} (p50 {} ms)",
            seen.first_tokens.len(),
            at(0.5).as_millis()
        ),
        value: format!("{} ms", at(0.99).as_millis()),
        limit: "< 1000 ms",
        is_met: at(0.99) < Duration::from_secs(1),
    })
}

/// Sixty-four clients, some of whom leave; the memory of the server in the meantime.
fn streams(keid: &Keid, time: Duration) -> anyhow::Result<Vec<Figure>> {
    let memory = Arc::new(Mutex::new(Vec::new()));
    let is_over = Arc::new(AtomicBool::new(false));
    let watch = {
        let (memory, is_over, id) = (Arc::clone(&memory), Arc::clone(&is_over), keid.id());
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let resident = cpu::resident_bytes(id);
                memory.lock().unwrap_or_else(PoisonError::into_inner).extend(resident);
                std::thread::sleep(Duration::from_millis(500));
            }
        })
    };
    let seen = clients(keid.url(), 64, time, Leaving::Every(4), story);
    is_over.store(true, Ordering::Relaxed);
    // It only reads a file.
    let _ = watch.join();
    let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let part = memory.len() / 6;
    let mean = |values: &[u64]| values.iter().sum::<u64>() as f64 / values.len().max(1) as f64;
    let (early, late) = (mean(&memory[part..2 * part]), mean(&memory[5 * part..]));
    let growth = (late / early.max(1.0) - 1.0) * 100.0;
    let Seen { n_answers, n_left, n_tokens, errors, .. } = &seen;
    let first = errors.first().map(|error| format!(": {error}")).unwrap_or_default();
    Ok(vec![
        Figure {
            what: format!("64 streams: {n_answers} answers, {n_left} left, {n_tokens} tokens"),
            value: format!("{} errors{first}", errors.len()),
            limit: "0 errors",
            is_met: errors.is_empty() && *n_answers > 0,
        },
        Figure {
            what: format!("memory from {:.1} to {:.1} MB", early / 1e6, late / 1e6),
            value: format!("{growth:+.1} %"),
            limit: "within 5 %",
            is_met: growth.abs() <= 5.0,
        },
    ])
}

/// A turn of `n` tokens or so, in valid JSON.
fn words(n: usize) -> String {
    let list: Vec<String> = (0..n / 6).map(|i| format!("\"item number {i}\"")).collect();
    format!("{{\"items\": [{}]}}", list.join(", "))
}

/// How often an engine makes a token here.
const PACE: Duration = Duration::from_micros(2500);

fn quick(n: usize) -> Value {
    let mut body = sum(0);
    body["max_tokens"] = n.into();
    body["thinking"] = json!({"type": "disabled"});
    body
}

/// What the threads of HTTP take for a token, beside an engine that gives 400 a second; the floor is
/// one wake-up and one write for every token.
fn protocol() -> anyhow::Result<Figure> {
    let n = 1000;
    let server = Scripted::start(&[words(2 * n).as_str()], PACE)?;
    ask(server.url(), &quick(50), Leave::Never)?;
    let (mut spent, mut floor) = (Duration::ZERO, Duration::ZERO);
    let (mut n_tokens, mut time) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        let before = cpu::of_threads("http")?;
        let answer = ask(server.url(), &quick(n), Leave::Never)?;
        spent += cpu::of_threads("http")?.saturating_sub(before);
        n_tokens += answer.n_tokens;
        time += answer.time;
        floor += floor::measure(n, PACE)? / ROUNDS;
    }
    let per_token = spent.as_secs_f64() * 1e6 / n_tokens as f64;
    let floor = floor.as_secs_f64() * 1e6;
    let pace = n_tokens as f64 / time.as_secs_f64();
    Ok(Figure {
        what: format!(
            "HTTP and protocol, CPU a token at {pace:.0} t/s ({floor:.1} to wake and write)"
        ),
        value: format!("{per_token:.1} µs"),
        limit: "<= 30 µs",
        is_met: per_token <= 30.0,
    })
}

/// The same tokens with and without a grammar.
fn grammar() -> anyhow::Result<Figure> {
    let n = 1500;
    let server = Scripted::start(&[words(2 * n).as_str()], PACE)?;
    let free = quick(n);
    let mut bound = quick(n);
    let items = json!({"type": "array", "items": {"type": "string"}});
    let schema = json!({"type": "object", "properties": {"items": items}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "l", "schema": schema}});
    bound["response_format"] = format;
    let mut times = [Duration::ZERO; 2];
    ask(server.url(), &bound, Leave::Never)?;
    for _ in 0..3 {
        for (body, time) in [&free, &bound].into_iter().zip(&mut times) {
            let answer = ask(server.url(), body, Leave::Never)?;
            if answer.n_tokens != n as u64 {
                bail!("{} tokens came, not {n}", answer.n_tokens);
            }
            *time += answer.time;
        }
    }
    let cost = (times[1].as_secs_f64() / times[0].as_secs_f64() - 1.0) * 100.0;
    let pace = 3.0 * n as f64 / times[0].as_secs_f64();
    Ok(Figure {
        what: format!("a JSON schema's cost at {pace:.0} t/s, 129,280 tokens"),
        value: format!("{cost:+.1} %"),
        limit: "<= 3 %",
        is_met: cost <= 3.0,
    })
}
