//! The model that ships, against its golden logits.

use std::path::Path;

use backend::Ops;
use backend::reference::Reference;
use backend_cpu::{Cpu, PoolOptions};
use engine::RowFormat;
use tests::tiny::{Allowed, EXACT, LENGTHS, MODEL, Tiny};

/// The reference computes in single precision.
const SINGLE: Allowed = Allowed { max: 1e-4, rms: 1e-5, gap: 0.0 };
/// The CPU rounds activations to eight bits before matrices of eight and four.
const EIGHT_BITS: Allowed = Allowed { max: 0.5, rms: 0.1, gap: 0.0 };
/// Rows rounded to FP8 and FP4 besides: a value at a boundary falls to either side and can turn
/// a near tie of the router. One does, traced with the reference, which has the golden choices: at the
/// 14th token of 17, expert 5 of layer 3 leads expert 3 for the second place by 0.0024 (score and bias
/// added), activations rounded to eight bits move the scores by up to 0.0027, and expert 3 is chosen, by
/// 0.00014; in layer 5 a lead of 0.0072 turns after it. Logits of that row are off by up to 2.7, of the
/// three rows after it by 0.14. What the model says must stay: the greedy tokens are compared, too.
const BOUNDARIES: Allowed = Allowed { max: 4.0, rms: 0.4, gap: 0.0 };

fn check<B: Ops>(be: B, n: usize, numerics: (&str, RowFormat), allowed: Allowed) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let found = Tiny::open(&root).check(be, (n, 300), numerics, allowed);
    println!("{} {n}: max and rms {found:?}", numerics.0);
}

fn cpu() -> Cpu {
    Cpu::new(PoolOptions { threads: None, pin: false }).expect("a CPU")
}

#[test]
fn reference_without_rounding() {
    for n in [17, 130] {
        check(Reference::new(), n, EXACT, SINGLE);
    }
}

#[test]
fn reference_with_the_models_rounding() {
    for n in [17, 130] {
        check(Reference::new(), n, MODEL, SINGLE);
    }
}

#[test]
fn cpu_without_rounding() {
    for n in LENGTHS {
        check(cpu(), n, EXACT, EIGHT_BITS);
    }
}

#[test]
fn cpu_with_the_models_rounding() {
    for n in LENGTHS {
        check(cpu(), n, MODEL, BOUNDARIES);
    }
}
