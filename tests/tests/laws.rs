//! The engine's laws on random tiny models.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backend::SendOps;
use backend::reference::Reference;
use backend_cpu::{Cpu, PoolOptions};
use engine::{Core, Engine, Feed, Options, RowFormat, Wanted, prefill};
use testkit::oracle::Scheme;
use tests::Model;
use tests::laws::{self, Agreement, Law};

/// A walk on which every bit is the same.
fn walk<B: SendOps>(seed: u64, steps: usize, rows: RowFormat, make: &dyn Fn(usize) -> B) {
    let law = Law { rows, step_rows: 48, agreement: |_| Agreement::Bits };
    let seen = laws::walk(seed, steps, law, make);
    assert!(seen.rows > 0, "seed {seed} compares nothing");
}

#[test]
fn reference_with_the_models_rounding() {
    for seed in 0..5 {
        walk(seed, 25, RowFormat::Model, &|_| Reference::new());
    }
}

#[test]
fn reference_without_rounding() {
    for seed in 100..103 {
        walk(seed, 25, RowFormat::F32, &|_| Reference::new());
    }
}

/// One thread for what is tested, two for what it is compared with.
fn cpu(which: usize) -> Cpu {
    Cpu::new(PoolOptions { threads: Some(1 + which), pin: false }).expect("threads start")
}

#[test]
fn cpu_with_the_models_rounding() {
    for seed in 0..12 {
        walk(seed, 40, RowFormat::Model, &cpu);
    }
}

#[test]
fn cpu_without_rounding() {
    for seed in 100..106 {
        walk(seed, 40, RowFormat::F32, &cpu);
    }
}

#[test]
fn a_released_sequence_is_resumed_from_the_cache() {
    let model = Model::new(&testkit::random::config(3), Scheme::F32);
    let options = Options { anchor_bytes: 4 << 20, ..Options::single(600, 64) };
    let mut core = model.open(Reference::new(), options);
    let tokens: Vec<u32> = (0..300).map(|i| 3 + i % 200).collect();
    let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
    let first = prefill(&mut core, 0, &tokens, go_on).expect("reads");
    assert_eq!((first.reuse.resumed, first.computed), (0, 300));
    core.release(0);
    let longer = [tokens.as_slice(), &[7, 8, 9]].concat();
    let again = prefill(&mut core, 0, &longer, go_on).expect("reads");
    assert_eq!((again.reuse.resumed, again.computed), (300, 3));
}

#[test]
fn a_filled_sequence_measures_and_is_never_shared() {
    let model = Model::new(&testkit::random::config(3), Scheme::F32);
    let options = Options { anchor_bytes: 4 << 20, ..Options::single(1200, 64) };
    let mut core = model.open(Reference::new(), options);
    core.fill(0, 900, 5).expect("fills");
    assert_eq!(Engine::tokens(&core, 0), [5; 900]);
    // It goes on from there, over a page's end.
    for part in [[7u32; 64].as_slice(), &[8; 64], &[9]] {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(1) }]).expect("feeds");
        assert!(core.logits(0).iter().all(|v| v.is_finite()));
        core.commit(&[part.len() as u32]).expect("commits");
    }
    core.anchor(0).expect("leaves none");
    core.release(0);
    let reuse = core.resume(0, &[5; 1000]).expect("finds nothing");
    assert_eq!((reuse.matched, reuse.resumed), (0, 0));
}

#[test]
fn a_chunk_that_is_stopped_leaves_no_trace() {
    let model = Model::new(&testkit::random::config(3), Scheme::F32);
    let options = Options { anchor_bytes: 4 << 20, ..Options::single(600, 64) };
    let tokens: Vec<u32> = (0..200).map(|i| 3 + i % 190).collect();
    let read = |core: &mut Core<Reference>| {
        let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
        let read = prefill(core, 0, &tokens, go_on).expect("reads");
        (read, core.logits(0).to_vec())
    };
    let mut fresh = model.open(Reference::new(), options);
    let want = read(&mut fresh).1;
    let mut core = model.open(Reference::new(), options);
    let stop = Arc::new(AtomicBool::new(false));
    core.watch(Arc::clone(&stop));
    // The flag is set while the second chunk waits, as Ctrl-C does.
    let mut set_it = |done: usize, _: usize| {
        stop.store(done >= 64, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    let stopped = prefill(&mut core, 0, &tokens, &mut set_it).expect("stops");
    assert_eq!((stopped.stopped, stopped.computed), (true, 64));
    assert_eq!(Engine::tokens(&core, 0), &tokens[..64]);
    stop.store(false, Ordering::Relaxed);
    let (again, logits) = read(&mut core);
    assert_eq!((again.reuse.resumed, logits == want), (64, true));
}
