//! The engine's laws on random tiny models.

use backend::reference::Reference;
use backend_cpu::{Cpu, PoolOptions};
use engine::RowFormat;
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
