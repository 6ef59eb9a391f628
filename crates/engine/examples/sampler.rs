//! Time to choose a token from a full vocabulary, in microseconds:
//! `cargo run --release -p engine --example sampler`.

use std::time::Instant;

use engine::{Sampler, Sampling};

const N_VOCAB: usize = 129_280;
const ROUNDS: usize = 300;

fn main() {
    let base = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    let cases = [
        ("greedy", Sampling::GREEDY),
        ("temperature 1", base),
        ("top-p 0.95", Sampling { top_p: 0.95, ..base }),
        ("top-k 50", Sampling { top_k: 50, ..base }),
        ("top-k 50, top-p 0.95", Sampling { top_k: 50, top_p: 0.95, ..base }),
        ("min-p 0.05", Sampling { min_p: 0.05, ..base }),
    ];
    // Logits as a model has them: a bell with a few far above it. And the worst: all the same.
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut peaked: Vec<f32> =
        (0..N_VOCAB).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 4.0).collect();
    (0..20).for_each(|i| peaked[i * 6000] = 24.0 + uniform() * 8.0);
    let flat = vec![1.0; N_VOCAB];
    let mut sampler = Sampler::new(N_VOCAB);
    println!("{:<24}{:>10}{:>10}", "µs a token", "peaked", "flat");
    for (name, how) in cases {
        let mut time = |logits: &[f32]| {
            let start = Instant::now();
            for pos in 0..ROUNDS {
                std::hint::black_box(sampler.sample(logits, &how, &[], pos));
            }
            start.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64
        };
        println!("{name:<24}{:>10.0}{:>10.0}", time(&peaked), time(&flat));
    }
    // A grammar inside a string, which forbids few tokens all over, and one in markup.
    let wide: Vec<u32> = (0..N_VOCAB as u32 / 32).map(|i| !(1 << (i % 32))).collect();
    let narrow: Vec<u32> = (0..N_VOCAB as u32 / 32).map(|i| u32::from(i % 500 == 0)).collect();
    for (name, how) in [("greedy", Sampling::GREEDY), ("temperature 1", base)] {
        for (kind, mask) in [("wide", &wide), ("narrow", &narrow)] {
            let start = Instant::now();
            for pos in 0..ROUNDS {
                std::hint::black_box(sampler.sample_allowed(&peaked, mask, &how, pos));
            }
            let time = start.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64;
            println!("{:<24}{time:>10.0}", format!("{name}, {kind} mask"));
        }
    }
}
