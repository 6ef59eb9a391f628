//! What a step costs by its number of rows, each of another sequence, as a server makes them.
//!
//! `cargo run --release -p backend-cpu --example rows -- model.gguf [threads] [context] [rows] [rounds]`

use std::path::Path;
use std::time::{Duration, Instant};

use backend_cpu::{Cpu, PoolOptions};
use engine::{Core, Feed, Options, Wanted};
use gguf::Gguf;

/// Rows of the largest step.
const MOST: usize = 16;
/// Steps of each round; the best of several rounds counts. All begin at the same context.
const STEPS: usize = 16;
const ROUNDS: usize = 32;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| {
        args.get(i).map_or(default, |n| n.parse().expect("a number of threads or tokens"))
    };
    let (threads, prompt) = (number(1, 2), number(2, 64));
    let file = Gguf::open(Path::new(args.first().expect("a model file"))).expect("a GGUF file");
    let config = model::Config::from_gguf(&file).expect("a DeepSeek V4 model");
    let be = Cpu::new(PoolOptions { threads: Some(threads), pin: false }).expect("threads");
    println!("{} kernels, {threads} threads, after {prompt} tokens", be.kernels());
    let context = prompt + STEPS + 1;
    // The last slot holds the prompt.
    let n_slots = MOST + 1;
    let options = Options {
        n_slots,
        pool_tokens: n_slots * (context + 256),
        logit_rows: MOST,
        ..Options::single(context, prompt.max(MOST))
    };
    let mut core = Core::open(be, &file, config, None, options).expect("opens");
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| i * 97 % 1000 + 3).collect();
    core.feed(&[Feed { slot: MOST, tokens: &tokens, wanted: Wanted::Last(1) }]).expect("feeds");
    core.commit_all().expect("commits");
    let mut one = Duration::ZERO;
    let (only, rounds) = (number(3, 0), number(4, ROUNDS));
    for rows in [1, 2, 4, 8, 16].into_iter().filter(|rows| only == 0 || only == *rows) {
        let best = (0..rounds).map(|_| steps(&mut core, rows)).min().unwrap_or_default();
        if rows == 1 {
            one = best;
        }
        println!(
            "{rows:2} rows: {:7.1} µs a step, {:.2} times one row, {:6.0} tokens a second",
            best.as_secs_f64() * 1e6,
            best.as_secs_f64() / one.as_secs_f64(),
            rows as f64 / best.as_secs_f64()
        );
    }
}

/// The mean time of a step. Rows differ, so that they do not all choose the same experts.
fn steps(core: &mut Core<Cpu>, rows: usize) -> Duration {
    (0..rows).for_each(|slot| core.fork(MOST, slot).expect("forks"));
    let start = Instant::now();
    for step in 0..STEPS {
        let tokens: Vec<[u32; 1]> =
            (0..rows).map(|row| [((step * MOST + row) * 37 % 1000 + 3) as u32]).collect();
        let feeds: Vec<Feed<'_>> = tokens
            .iter()
            .zip(0..)
            .map(|(tokens, slot)| Feed { slot, tokens, wanted: Wanted::Last(1) })
            .collect();
        core.feed(&feeds).expect("feeds");
        core.commit_all().expect("commits");
    }
    start.elapsed() / STEPS as u32
}
