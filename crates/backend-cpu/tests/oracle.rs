//! Whole models on the CPU backend against numbers from outside, and the laws of its bits.

use backend::RowFormat;
use backend_cpu::{Cpu, PoolOptions};
use engine::{Core, Feed, Options, Wanted};
use gguf::Gguf;
use quant::dot::Kernels;
use testkit::golden::Golden;
use testkit::oracle::{self, Mtp, Scheme};

fn cpu(threads: usize) -> Cpu {
    Cpu::new(PoolOptions { threads: Some(threads), pin: false }).expect("threads")
}

fn file(config: &oracle::Config, scheme: Scheme) -> Gguf {
    let bytes = oracle::write_gguf(config, scheme, Mtp::Without);
    Gguf::from_vec(bytes, &config.name).expect("the testkit writes valid files")
}

fn open(file: &Gguf, be: Cpu, (context, chunk): (usize, usize), rows: RowFormat) -> Core<Cpu> {
    let config = model::Config::from_gguf(file).expect("a V4 model");
    let chunk = chunk.min(context);
    let options = Options { logit_rows: chunk.min(4), rows, ..Options::single(context, chunk) };
    Core::open(be, file, config, None, options).expect("opens")
}

/// Logits of the last four tokens, the prompt being fed in chunks.
fn run(core: &mut Core<Cpu>, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for part in tokens.chunks(chunk) {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(4) }]).expect("feeds");
        rows.extend((0..core.n_logits()).map(|i| core.logits(i).to_vec()));
        core.commit_all().expect("commits");
    }
    rows[rows.len() - tokens.len().min(4)..].concat()
}

fn distance(got: &[f32], want: &[f32]) -> (f32, f32) {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().all(|v| v.is_finite()), "a logit is not finite");
    let diffs = || got.iter().zip(want).map(|(g, w)| (g - w).abs());
    let squares: f64 = diffs().map(|d| f64::from(d * d)).sum();
    (diffs().fold(0.0, f32::max), (squares / got.len() as f64).sqrt() as f32)
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn prompt(golden: &Golden, n: usize) -> Vec<u32> {
    golden.i32(&format!("tokens/{n}")).1.iter().map(|t| *t as u32).collect()
}

/// Every golden prompt of a variant: largest and rms difference allowed.
fn check(
    config: &oracle::Config,
    scheme: Scheme,
    (variant, rows): (&str, RowFormat),
    allowed: impl Fn(usize) -> (f32, f32),
) {
    let golden = Golden::load(&config.name);
    let file = file(config, scheme);
    for n in [1, 3, 17, 130, 300, 700] {
        let key = format!("{variant}/{n}/logits");
        if !golden.contains(&key) {
            continue;
        }
        let mut core = open(&file, cpu(2), (n, 128), rows);
        let got = run(&mut core, &prompt(&golden, n), 128);
        let want = golden.f32(&key).1;
        let (max, rms) = distance(&got, &want);
        println!("{} {scheme:?} {variant}/{n}: max {max}, rms {rms}", config.name);
        let (max_allowed, rms_allowed) = allowed(n);
        assert!(max <= max_allowed && rms <= rms_allowed, "{key}: max {max}, rms {rms}");
        for (got, want) in got.chunks(config.vocab).zip(want.chunks(config.vocab)) {
            let best = argmax(want);
            // Where the two best are closer than the noise, either is right.
            assert!(want[best] - want[argmax(got)] <= 2.0 * max, "{key}: another token");
        }
    }
}

/// Float weights meet unrounded activations: float32 noise, which grows with the prompt.
#[test]
fn float_files_are_exact() {
    let exact = |n: usize| (if n == 700 { 1e-3 } else { 5e-4 }, 5e-4);
    check(&oracle::Config::tiny_a(), Scheme::F32, ("exact", RowFormat::F32), exact);
    let calm = |n: usize| if n == 700 { (1e-4, 1e-4) } else { (5e-5, 5e-5) };
    for scheme in [Scheme::F32, Scheme::F16, Scheme::Bf16] {
        check(&oracle::Config::tiny_c(), scheme, ("exact", RowFormat::F32), calm);
    }
}

/// Rounded activations. llama.cpp's kernels, with int8 everywhere, lie at rms 0.05 and max 0.25 for all
/// of these but MXFP4.
#[test]
fn quantised_files_are_as_close_as_rounded_activations_allow() {
    for (scheme, variant, max, rms) in [
        (Scheme::Q8_0, "q8_0", 0.06, 0.015),
        (Scheme::Q4K, "q4k", 0.25, 0.05),
        (Scheme::Q2, "q2", 0.25, 0.05),
        (Scheme::Mxfp4, "fp8fp4", 0.25, 0.05),
    ] {
        let format = (variant, RowFormat::F32);
        check(&oracle::Config::tiny_c(), scheme, format, |_| (max, rms));
    }
}

/// The model's own rounding of KV rows; a value at a rounding boundary falls to either side.
#[test]
fn rounded_rows_agree_with_the_models_definition() {
    let format = ("qat", RowFormat::ModelWideTail);
    check(&oracle::Config::tiny_c(), Scheme::F32, format, |_| (0.25, 0.05));
}

/// Chunks, threads and instruction sets change no bit of any logit.
#[test]
fn bits_do_not_depend_on_chunks_threads_or_instructions() {
    let config = oracle::Config::tiny_a();
    let golden = Golden::load(&config.name);
    for scheme in [Scheme::F32, Scheme::Q2, Scheme::Mxfp4] {
        let file = file(&config, scheme);
        let bits = |be: Cpu, n: usize, chunk: usize, rows: RowFormat| -> Vec<u32> {
            let mut core = open(&file, be, (n, chunk), rows);
            let logits = run(&mut core, &prompt(&golden, n), chunk);
            logits[logits.len() - config.vocab..].iter().map(|v| v.to_bits()).collect()
        };
        for rows in [RowFormat::F32, RowFormat::Model] {
            let want = bits(cpu(2), 130, 130, rows);
            for (threads, chunk) in [(1, 64), (3, 7), (2, 1)] {
                let got = bits(cpu(threads), 130, chunk, rows);
                assert_eq!(got, want, "{scheme:?} {rows:?}: {threads} threads, chunks of {chunk}");
            }
        }
        // The portable kernels are slow: a short prompt.
        let want = bits(cpu(2), 17, 17, RowFormat::Model);
        for kernels in Kernels::available() {
            let options = PoolOptions { threads: Some(2), pin: false };
            let be = Cpu::with_kernels(options, kernels).expect("threads");
            let got = bits(be, 17, 10, RowFormat::Model);
            assert_eq!(got, want, "{scheme:?} on {}", kernels.name());
        }
    }
}
