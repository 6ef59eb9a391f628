//! Every operation of the one case list against the reference, with the kernels on the emulator.

mod emulator;

use std::time::Instant;

use backend::cases::{Case, Outcome, Visitor, check, for_each};
use backend_cuda::Cuda;

/// Takes every `n`-th case from the `first` on, so that the tests share the list, of the operations named.
struct Compare {
    make: fn() -> Cuda,
    operations: &'static [&'static str],
    first: usize,
    n: usize,
    seen: usize,
    outcomes: Vec<Outcome>,
}

impl Visitor for Compare {
    fn visit<C: Case>(&mut self, case: &C) {
        let name = case.name();
        if !self.operations.iter().any(|operation| name.starts_with(operation)) {
            return;
        }
        let mine = self.seen % self.n == self.first;
        self.seen += 1;
        if mine {
            let start = Instant::now();
            let outcome = check(case, &self.make, false);
            println!("{:>8.1?}  nmse {:.1e}  {}", start.elapsed(), outcome.nmse, outcome.name);
            self.outcomes.push(outcome);
        }
    }
}

/// Every operation.
const ALL: &[&str] = &[""];

fn compare(make: fn() -> Cuda, operations: &'static [&'static str], first: usize) {
    let mut compare = Compare { make, operations, first, n: 2, seen: 0, outcomes: Vec::new() };
    for_each(&mut compare);
    assert!(compare.outcomes.len() >= 30, "{} cases", compare.outcomes.len());
    let faults: Vec<String> = compare
        .outcomes
        .iter()
        .filter_map(|o| Some(format!("{}: {}", o.name, o.fault.as_ref()?)))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_second_operation_agrees_with_the_reference() {
    compare(emulator::cuda, ALL, 0);
}

#[test]
fn the_other_operations_agree_too() {
    compare(emulator::cuda, ALL, 1);
}

#[test]
fn every_second_operation_agrees_with_the_kernels_of_sm_90() {
    compare(emulator::cuda_90, ALL, 0);
}

#[test]
fn the_others_agree_with_them_too() {
    compare(emulator::cuda_90, ALL, 1);
}
