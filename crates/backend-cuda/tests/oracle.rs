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

fn file(config: &oracle::Config, scheme: Scheme) -> (Gguf, model::Config) {
    let bytes = oracle::write_gguf(config, scheme, Mtp::Without);
    let file = Gguf::from_vec(bytes, &config.name).expect("the testkit writes valid files");
    let config = model::Config::from_gguf(&file).expect("a V4 model");
    (file, config)
}

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
    let (golden, start) = (Golden::load(&config.name), std::time::Instant::now());
    let mut core = open(config, scheme, rows, (n, 100.min(n)));
    let got = run(&mut core, &prompt(&golden, n), n - single, 100);
    let key = format!("{variant}/{n}/logits");
    let (max, rms) = distance(&got, &golden.f32(&key).1);
    let time = start.elapsed();
    println!("{time:.1?} {} {scheme:?} {key}, {single} alone: max {max}, rms {rms}", config.name);
    assert!(max <= allowed.0 && rms <= allowed.1, "{key}: max {max}, rms {rms}");
}

/// Float weights meet unrounded activations: float32 noise.
#[test]
fn float_files_are_exact() {
    let exact = |scheme| (scheme, "exact", RowFormat::F32);
    check(&oracle::Config::tiny_c(), exact(Scheme::F32), (17, 9), (5e-5, 5e-5));
    check(&oracle::Config::tiny_c(), exact(Scheme::F16), (3, 0), (5e-5, 5e-5));
    check(&oracle::Config::tiny_a(), exact(Scheme::F32), (3, 0), (5e-4, 5e-4));
}

/// Rounded activations. Q8_0 meets eight bits here, thirteen on the CPU.
#[test]
fn quantised_files_are_as_close_as_rounded_activations_allow() {
    for (scheme, variant, max, rms) in
        [(Scheme::Q8_0, "q8_0", 0.3, 0.08), (Scheme::Q2, "q2", 0.3, 0.08)]
    {
        check(&oracle::Config::tiny_c(), (scheme, variant, RowFormat::F32), (17, 3), (max, rms));
    }
}

/// The model's own rounding of KV rows; a value at a rounding boundary falls to either side.
#[test]
fn rounded_rows_agree_with_the_models_definition() {
    let format = (Scheme::F32, "qat", RowFormat::ModelWideTail);
    check(&oracle::Config::tiny_c(), format, (17, 3), (0.25, 0.05));
}

/// Two sequences in one step, a third that goes on from what the first has saved: each as if alone.
#[test]
fn sequences_share_steps_and_states() {
    let config = oracle::Config::tiny_c();
    let golden = Golden::load(&config.name);
    let (long, short) = (prompt(&golden, 17), prompt(&golden, 3));
    let (main, shape) = file(&config, Scheme::F32);
    let sizes = Options { n_slots: 3, pool_tokens: 600, ..Options::single(40, 12) };
    let options = Options { logit_rows: 8, rows: RowFormat::F32, ..sizes };
    let mut core = Core::open(emulator::cuda(), &main, shape, None, options).expect("opens");
    let feed = |slot, tokens, n| Feed { slot, tokens, wanted: Wanted::Last(n) };
    core.feed(&[feed(0, &long[..11], 0)]).expect("feeds");
    core.commit_all().expect("commits");
    let (mut state, mut last) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
    for i in 11..17 {
        if i == 13 {
            core.save(0, &mut state).expect("saves");
            core.load(2, &mut state.as_slice()).expect("loads");
        }
        let mut feeds = vec![feed(0, &long[i..=i], 1)];
        if i >= 13 {
            feeds.push(feed(2, &long[i..=i], 1));
        }
        if i >= 14 {
            feeds.push(feed(1, &short[i - 14..i - 13], 1));
        }
        core.feed(&feeds).expect("feeds");
        for (j, feed) in feeds.iter().enumerate().filter(|_| i >= 13) {
            last[feed.slot].extend_from_slice(core.logits(j));
        }
        core.commit_all().expect("commits");
    }
    for (logits, n) in last.iter().zip([17, 3, 17]) {
        let want = golden.f32(&format!("exact/{n}/logits")).1;
        let (max, rms) = distance(&logits[logits.len() - want.len()..], &want);
        assert!(max <= 5e-5 && rms <= 5e-5, "{n} tokens: max {max}, rms {rms}");
    }
}

/// The draft block follows the main model, and its steps have recordings of their own.
#[test]
fn drafts_agree_with_the_oracle() {
    let config = oracle::Config::tiny_c();
    let golden = Golden::load(&config.name);
    let (main, shape) = file(&config, Scheme::F32);
    let bytes = oracle::write_gguf(&config, Scheme::F32, Mtp::Ds4File);
    let file = Gguf::from_vec(bytes, "draft").expect("the testkit writes valid files");
    let source = model::find_mtp(&file, &shape).expect("an MTP block");
    let mtp = model::bind_mtp(&file, &shape, &source).expect("a whole MTP block");
    let n = 17;
    let tokens = prompt(&golden, n);
    let sizes = Options { draft: true, rows: RowFormat::F32, ..Options::single(n, 100.min(n)) };
    let (be, shape) = (emulator::cuda(), shape);
    let mut core = Core::open(be, &main, shape, Some(&mtp), sizes).expect("opens");
    let (head, tail) = tokens[..n - 1].split_at(n - 5);
    for part in head.chunks(100).chain(tail.chunks(1)) {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Nothing }]).expect("feeds");
        core.commit_all().expect("commits");
    }
    let draft = core.draft(0, tokens[n - 1]).expect("drafts").to_vec();
    let want = golden.f32(&format!("exact/{n}/mtp_logits_at_{}", n - 2)).1;
    let (max, rms) = distance(&draft, &want);
    assert!(max <= 5e-4, "{n} tokens: max {max}, rms {rms}");
}

/// What the device holds is what the plan says, but for anchors and a copy of the logits, which lie on
/// the host.
#[test]
fn memory_is_what_the_plan_says() {
    for scheme in [Scheme::F16, Scheme::Q2] {
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
