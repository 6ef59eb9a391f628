//! Whole models with the kernels on the emulator, against numbers from outside: prompts in chunks, and
//! token after token, where steps are recorded and replayed.

mod emulator;

use std::sync::atomic::Ordering;

use backend::RowFormat;
use backend_cuda::Cuda;
use engine::{Core, Feed, MemoryPlan, Options, Wanted, weight_bytes};
use gguf::Gguf;
use testkit::golden::Golden;
use testkit::oracle::{self, Mtp, Scheme};

fn open(
    config: &oracle::Config,
    scheme: Scheme,
    rows: RowFormat,
    sizes: (usize, usize),
) -> Core<Cuda> {
    let (file, config) = file(config, scheme);
    let options = Options { logit_rows: sizes.1.min(4), rows, ..Options::single(sizes.0, sizes.1) };
    Core::open(emulator::cuda(), &file, config, None, options).expect("opens")
}

fn prompt(golden: &Golden, n: usize) -> Vec<u32> {
    golden.i32(&format!("tokens/{n}")).1.iter().map(|t| *t as u32).collect()
}

/// Logits of the last four tokens, the first `whole` being fed in chunks of `chunk` and the rest one
/// by one.
fn run(core: &mut Core<Cuda>, tokens: &[u32], whole: usize, chunk: usize) -> Vec<f32> {
    let (head, tail) = tokens.split_at(whole.min(tokens.len()));
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for part in head.chunks(chunk).chain(tail.chunks(1)) {
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

/// The golden prompt of `n` tokens, all but the last `single` of them in chunks: largest and rms
/// difference allowed.
fn check(
    config: &oracle::Config,
    (scheme, variant, rows): (Scheme, &str, RowFormat),
    (n, single): (usize, usize),
    allowed: (f32, f32),
) {
    let golden = Golden::load(&config.name);
    let mut core = open(config, scheme, rows, (n, 100.min(n)));
    let got = run(&mut core, &prompt(&golden, n), n - single, 100);
    let key = format!("{variant}/{n}/logits");
    let (max, rms) = distance(&got, &golden.f32(&key).1);
    println!("{} {scheme:?} {key}, the last {single} alone: max {max}, rms {rms}", config.name);
    assert!(max <= allowed.0 && rms <= allowed.1, "{key}: max {max}, rms {rms}");
}

/// Float weights meet unrounded activations: float32 noise.
#[test]
fn float_files_are_exact() {
    let exact = |scheme| (scheme, "exact", RowFormat::F32);
    let calm = (5e-5, 5e-5);
    check(&oracle::Config::tiny_c(), exact(Scheme::F32), (130, 13), calm);
    check(&oracle::Config::tiny_c(), exact(Scheme::F16), (17, 17), calm);
    check(&oracle::Config::tiny_c(), exact(Scheme::Bf16), (17, 0), calm);
    check(&oracle::Config::tiny_a(), exact(Scheme::F32), (130, 3), (5e-4, 5e-4));
}

/// Rounded activations, as on the CPU.
#[test]
fn quantised_files_are_as_close_as_rounded_activations_allow() {
    for (scheme, variant, max, rms) in [
        (Scheme::Q8_0, "q8_0", 0.06, 0.015),
        (Scheme::Q4K, "q4k", 0.25, 0.05),
        (Scheme::Q2, "q2", 0.25, 0.05),
        (Scheme::Mxfp4, "fp8fp4", 0.25, 0.05),
    ] {
        check(&oracle::Config::tiny_c(), (scheme, variant, RowFormat::F32), (17, 6), (max, rms));
    }
}

/// The model's own rounding of KV rows; a value at a rounding boundary falls to either side.
#[test]
fn rounded_rows_agree_with_the_models_definition() {
    let format = (Scheme::F32, "qat", RowFormat::ModelWideTail);
    check(&oracle::Config::tiny_c(), format, (130, 7), (0.25, 0.05));
}

/// What the device holds is what the plan says, but for anchors and a copy of the logits, which lie on
/// the host.
#[test]
fn memory_is_what_the_plan_says() {
    for scheme in [Scheme::F16, Scheme::Q8_0, Scheme::Q2] {
        let (file, config) = file(&oracle::Config::tiny_a(), scheme);
        let options = Options { n_slots: 3, pool_tokens: 6000, ..Options::single(2000, 128) };
        let (cuda, held) = emulator::cuda_with_count();
        let weights = weight_bytes(&cuda, &file, false, config.n_layers());
        let plan = MemoryPlan::new(&cuda, &config, &options, weights);
        let anchors = plan.lines.iter().filter(|line| line.label == "anchors");
        let on_host = anchors.map(|line| line.bytes).sum::<u64>() + 4 * config.n_vocab as u64;
        let core = Core::open(cuda, &file, config, None, options).expect("opens");
        let share = held.load(Ordering::Relaxed) as f64 / (plan.total() - on_host) as f64;
        println!("{}: {share:.4} of {plan:?}", scheme.name());
        assert!((0.995..=1.001).contains(&share), "{share:.4} of {plan:#?}");
        drop(core);
        assert_eq!(held.load(Ordering::Relaxed), 0, "everything is given back");
    }
}
