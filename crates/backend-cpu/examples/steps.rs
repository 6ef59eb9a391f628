//! Times prefill and decode of a model file beside the memory bandwidth of the same run.
//!
//! `cargo run --release -p backend-cpu --example steps -- model.gguf [threads] [prompt] [steps]`
//!
//! With one thread, processor times are printed too: on a machine with other work they are the fairer
//! figure.

use std::path::Path;
use std::time::{Duration, Instant};

use backend_cpu::{Cpu, PoolOptions};
use engine::{Core, Feed, Options, Wanted};
use gguf::Gguf;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| {
        args.get(i).map_or(default, |n| n.parse().expect("a number of threads, tokens or steps"))
    };
    let (threads, prompt, steps) = (number(1, 2), number(2, 512), number(3, 16));
    let path = args.first().expect("a model file");
    let file = Gguf::open(Path::new(path)).expect("a GGUF file");
    let config = model::Config::from_gguf(&file).expect("a DeepSeek V4 model");
    let read = bytes_per_token(&file, &config, prompt + steps);

    let options = PoolOptions { threads: Some(threads), pin: false };
    let be = Cpu::new(options).expect("threads");
    println!(
        "{} kernels, {threads} threads, {:.2} GB of weights a token",
        be.kernels(),
        read / 1e9
    );
    let sizes = Options::single(prompt + steps + 1, prompt);
    let mut core = Core::open(be, &file, config, None, sizes).expect("opens");
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| i * 97 % 1000 + 3).collect();
    feed(&mut core, &tokens[..prompt.min(8)]);
    core.discard();

    let time = measure(|| feed(&mut core, &tokens));
    core.commit_all().expect("commits");
    report("prefill", prompt, &time);
    let time = measure(|| {
        for i in 0..steps {
            feed(&mut core, &[i as u32 + 5]);
            core.commit_all().expect("commits");
        }
    });
    report("decode", steps, &time);
    let rate = |time: Duration| read * steps as f64 / time.as_secs_f64() / 1e9;
    println!("weights {:.1} GB/s by the clock, {:.1} by the processor", rate(time.0), rate(time.1));
    let bandwidth = bandwidth(threads);
    println!(
        "plain reads {bandwidth:.1} GB/s: decode at {:.0} %",
        100.0 * rate(time.0) / bandwidth
    );
}

fn feed(core: &mut Core<Cpu>, tokens: &[u32]) {
    core.feed(&[Feed { slot: 0, tokens, wanted: Wanted::Last(1) }]).expect("feeds");
}

/// Wall time and this thread's processor time.
fn measure(work: impl FnOnce()) -> (Duration, Duration) {
    let (wall, own) = (Instant::now(), thread_time());
    work();
    (wall.elapsed(), thread_time() - own)
}

fn report(what: &str, tokens: usize, (wall, own): &(Duration, Duration)) {
    let rate = |time: &Duration| tokens as f64 / time.as_secs_f64();
    println!(
        "{what:8} {tokens} tokens: {:.1} t/s by the clock, {:.1} by this thread's processor time",
        rate(wall),
        rate(own)
    );
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Bytes of all weights that one decoded token meets after `context` others: of the experts those it uses, of the
/// embedding nothing to speak of, of the indexer's queries nothing where it picks all rows.
fn bytes_per_token(file: &Gguf, config: &model::Config, context: usize) -> f64 {
    let picks_all = context / 4 <= config.indexer.top_k;
    let used = config.n_experts_used as f64 / config.n_experts as f64;
    let bytes = |info: &gguf::TensorInfo| {
        let bytes = file.data(info).bytes().len() as f64;
        match info.name.as_str() {
            "token_embd.weight" => 0.0,
            name if picks_all && name.contains(".indexer.") => 0.0,
            name if name.contains("_exps.") => bytes * used,
            _ => bytes,
        }
    };
    file.tensors().iter().map(bytes).sum()
}

/// Best of several plain reads of 512 MiB, in GB/s.
fn bandwidth(threads: usize) -> f64 {
    let data = vec![1u64; 64 << 20];
    let part = data.len() / threads;
    let pass = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(part) {
                scope.spawn(move || std::hint::black_box(sum(part)));
            }
        });
        (part * threads * 8) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..7).map(|_| pass()).fold(0.0, f64::max)
}

fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in words.as_chunks::<16>().0 {
        sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}
