//! The engine's laws on random tiny models.

use std::ops::ControlFlow;

use backend::reference::Reference;
use backend_cpu::{Cpu, PoolOptions};
use engine::{Options, RowFormat, prefill};
use testkit::oracle::Scheme;
use tests::Model;
use tests::laws::walk;

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
