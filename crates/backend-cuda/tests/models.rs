//! Whole small models with the kernels on the emulator, against the reference backend: prompts in
//! chunks, token after token where steps are recorded and replayed, several sequences in a step, saved
//! states, drafts; and what is allocated against the plan.

mod emulator;

use std::sync::atomic::Ordering;

use backend::Ops;
use backend::reference::Reference;
use engine::{Core, Feed, MemoryPlan, Options, RowFormat, Wanted, weight_bytes};
use gguf::Gguf;
use model::Config;
use testkit::oracle::{self, Mtp, Scheme};

/// A layer of each kind, every width as small as it may be.
fn shape() -> oracle::Config {
    oracle::Config {
        name: "small".to_owned(),
        hidden: 64,
        ratios: vec![0, 4, 128],
        heads: 4,
        head_dim: 96,
        rope_dim: 32,
        q_lora: 32,
        o_groups: 2,
        o_lora: 32,
        experts: 4,
        experts_used: 2,
        moe_inter: 32,
        hash_layers: 1,
        window: 8,
        index_heads: 2,
        index_dim: 64,
        index_top_k: 3,
        ..oracle::Config::tiny_c()
    }
}

/// The same with rows of whole 256s, so that kernels round what they make.
fn whole_chunks() -> oracle::Config {
    oracle::Config {
        name: "whole chunks".to_owned(),
        hidden: 256,
        heads: 2,
        head_dim: 256,
        q_lora: 512,
        moe_inter: 256,
        ..shape()
    }
}

/// The same in one layer with an output of so many columns that a row's goes straight into the streams.
fn broad_output() -> oracle::Config {
    oracle::Config {
        name: "broad output".to_owned(),
        ratios: vec![4],
        o_lora: 2048,
        ..whole_chunks()
    }
}

fn file(shape: &oracle::Config, scheme: Scheme, part: Mtp) -> Gguf {
    let bytes = oracle::write_gguf(shape, scheme, part);
    Gguf::from_vec(bytes, "small").expect("the testkit writes valid files")
}

fn main_file(shape: &oracle::Config, scheme: Scheme) -> (Gguf, Config) {
    let main = file(shape, scheme, Mtp::Without);
    let config = Config::from_gguf(&main).expect("a V4 model");
    (main, config)
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| 3 + (i * 37 + 11) % 400).collect()
}

fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().all(|v| v.is_finite()), "a logit is not finite");
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
}

/// Every row's logits: the first `whole` tokens in chunks of 9, the others one by one.
fn run<B: Ops>(
    be: B,
    shape: &oracle::Config,
    scheme: Scheme,
    rows: RowFormat,
    whole: usize,
) -> Vec<f32> {
    let (main, config) = main_file(shape, scheme);
    let options = Options { logit_rows: 9, rows, ..Options::single(40, 9) };
    let mut core = Core::open(be, &main, config, None, options).expect("opens");
    let tokens = tokens(24);
    let (head, tail) = tokens.split_at(whole);
    let mut logits = Vec::new();
    for part in head.chunks(9).chain(tail.chunks(1)) {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(9) }]).expect("feeds");
        (0..core.n_logits()).for_each(|i| logits.extend_from_slice(core.logits(i)));
        core.commit_all().expect("commits");
    }
    logits
}

#[test]
fn float_weights_meet_unrounded_activations() {
    for (scheme, whole) in [(Scheme::F32, 18), (Scheme::F16, 24)] {
        let want = run(Reference::new(), &shape(), scheme, RowFormat::F32, 24);
        let max = distance(&run(emulator::cuda(), &shape(), scheme, RowFormat::F32, whole), &want);
        assert!(max <= 1e-3, "{}: {max}", scheme.name());
    }
}

/// The allowance is that of rounded activations, and of values at a rounding boundary of a row.
#[test]
fn quantised_weights_and_rounded_rows_stay_near() {
    let spread = |logits: &[f32]| {
        let n = logits.len() as f32;
        (logits.iter().map(|v| v * v).sum::<f32>() / n).sqrt()
    };
    for (shape, scheme, rows) in [
        (shape(), Scheme::Q8_0, RowFormat::F32),
        (shape(), Scheme::F32, RowFormat::Model),
        (whole_chunks(), Scheme::Q8_0, RowFormat::F32),
        (whole_chunks(), Scheme::Q2, RowFormat::F32),
        (broad_output(), Scheme::Q2, RowFormat::F32),
    ] {
        let want = run(Reference::new(), &shape, scheme, rows, 24);
        let allowed = 0.25 * spread(&want);
        for (kind, be) in [("sm_80", emulator::cuda()), ("sm_90", emulator::cuda_90())] {
            let max = distance(&run(be, &shape, scheme, rows, 18), &want);
            let label = format!("{} {} {rows:?} {kind}", shape.name, scheme.name());
            assert!(max <= allowed, "{label}: {max}, allowed {allowed}");
        }
    }
}

/// Logits behind a prompt read in chunks of 75 tokens, more than operations for few rows take.
fn prompt<B: Ops>(be: B, shape: &oracle::Config, scheme: Scheme, rows: RowFormat) -> Vec<f32> {
    let (main, config) = main_file(shape, scheme);
    let options = Options { logit_rows: 9, rows, ..Options::single(160, 75) };
    let mut core = Core::open(be, &main, config, None, options).expect("opens");
    let mut logits = Vec::new();
    for part in tokens(150).chunks(75) {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(9) }]).expect("feeds");
        (0..core.n_logits()).for_each(|i| logits.extend_from_slice(core.logits(i)));
        core.commit_all().expect("commits");
    }
    logits
}

#[test]
fn prompts_of_many_rows_stay_near() {
    for (scheme, rows) in [
        (Scheme::F16, RowFormat::F32),
        (Scheme::Q8_0, RowFormat::F32),
        (Scheme::F32, RowFormat::Model),
    ] {
        let shape = shape();
        let want = prompt(Reference::new(), &shape, scheme, rows);
        for (arch, be) in [(80, emulator::cuda()), (90, emulator::cuda_90())] {
            let max = distance(&prompt(be, &shape, scheme, rows), &want);
            let spread = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt();
            println!("sm_{arch} {} {rows:?}: {max} of {spread}", scheme.name());
            let allowed = if scheme == Scheme::F16 { 1e-3 } else { 0.25 * spread };
            assert!(
                max <= allowed,
                "sm_{arch} {} {rows:?}: {max}, allowed {allowed}",
                scheme.name()
            );
        }
    }
}

/// Heads as large as every published model's, for which a prompt's attention is one piece on sm_90.
#[test]
fn prompts_of_large_heads_stay_near() {
    let shape = oracle::Config {
        heads: 64,
        head_dim: 512,
        rope_dim: 64,
        ratios: vec![4],
        index_heads: 64,
        index_dim: 128,
        // Rows at the threshold of a choice would hide smaller faults.
        index_top_k: 40,
        ..shape()
    };
    let (scheme, rows) = (Scheme::Q8_0, RowFormat::Model);
    let want = prompt(Reference::new(), &shape, scheme, rows);
    let max = distance(&prompt(emulator::cuda_90(), &shape, scheme, rows), &want);
    let spread = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt();
    println!("{max} of {spread}");
    assert!(max <= 0.25 * spread, "{max}, allowed a quarter of {spread}");
}

/// Two sequences in one step, and a third that goes on from what the first has saved.
fn side_by_side<B: Ops>(be: B) -> Vec<f32> {
    let (main, config) = main_file(&shape(), Scheme::F32);
    let sizes = Options { n_slots: 3, pool_tokens: 600, ..Options::single(40, 12) };
    let options = Options { logit_rows: 8, rows: RowFormat::F32, ..sizes };
    let mut core = Core::open(be, &main, config, None, options).expect("opens");
    let tokens = tokens(18);
    let feed = |slot, tokens| Feed { slot, tokens, wanted: Wanted::Last(1) };
    core.feed(&[feed(0, &tokens[..11])]).expect("feeds");
    core.commit_all().expect("commits");
    let (mut state, mut logits) = (Vec::new(), Vec::new());
    for i in 11..18 {
        if i == 13 {
            core.save(0, &mut state).expect("saves");
            core.load(2, &mut state.as_slice()).expect("loads");
        }
        let mut feeds = vec![feed(0, &tokens[i..=i]), feed(1, &tokens[i - 11..i - 10])];
        if i >= 13 {
            feeds.push(feed(2, &tokens[i..=i]));
        }
        core.feed(&feeds).expect("feeds");
        (0..core.n_logits()).for_each(|j| logits.extend_from_slice(core.logits(j)));
        core.commit_all().expect("commits");
    }
    logits
}

#[test]
fn sequences_share_steps_and_states() {
    let max = distance(&side_by_side(emulator::cuda()), &side_by_side(Reference::new()));
    assert!(max <= 1e-3, "{max}");
}

/// The draft block follows the main model, and its steps have recordings of their own.
fn draft<B: Ops>(be: B) -> Vec<f32> {
    let (main, config) = main_file(&shape(), Scheme::F32);
    let block = file(&shape(), Scheme::F32, Mtp::Ds4File);
    let source = model::find_mtp(&block, &config).expect("an MTP block");
    let mtp = model::bind_mtp(&block, &config, &source).expect("a whole MTP block");
    let sizes = Options { draft: true, rows: RowFormat::F32, ..Options::single(40, 9) };
    let mut core = Core::open(be, &main, config, Some(&mtp), sizes).expect("opens");
    let tokens = tokens(14);
    for part in tokens[..9].chunks(9).chain(tokens[9..13].chunks(1)) {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Nothing }]).expect("feeds");
        core.commit_all().expect("commits");
    }
    core.draft(0, tokens[13]).expect("drafts").to_vec()
}

#[test]
fn drafts_agree_with_the_reference() {
    let max = distance(&draft(emulator::cuda()), &draft(Reference::new()));
    assert!(max <= 1e-3, "{max}");
}

/// What the device holds is what the plan says, but for anchors and a copy of the logits, which lie on
/// the host.
#[test]
fn memory_is_what_the_plan_says() {
    for scheme in [Scheme::F16, Scheme::Q8_0] {
        let (main, config) = main_file(&shape(), scheme);
        let options = Options { n_slots: 3, pool_tokens: 6000, ..Options::single(2000, 128) };
        let (cuda, held) = emulator::cuda_with_count();
        let weights = weight_bytes(&cuda, &main, false, config.n_layers());
        let plan = MemoryPlan::new(&cuda, &config, &options, weights);
        let anchors = plan.lines.iter().filter(|line| line.label == "anchors");
        let on_host = anchors.map(|line| line.bytes).sum::<u64>() + 4 * config.n_vocab as u64;
        let core = Core::open(cuda, &main, config, None, options).expect("opens");
        let share = held.load(Ordering::Relaxed) as f64 / (plan.total() - on_host) as f64;
        assert!((0.99..=1.01).contains(&share), "{}: {share:.4} of {plan:#?}", scheme.name());
        drop(core);
        assert_eq!(held.load(Ordering::Relaxed), 0, "everything is given back");
    }
}
