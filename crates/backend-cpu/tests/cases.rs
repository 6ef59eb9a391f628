//! Every operation of the one case list against the reference, bit-invariant in its rows.

use backend::cases::{Case, Outcome, Visitor, check, for_each};
use backend_cpu::{Cpu, PoolOptions};

fn cpu() -> Cpu {
    Cpu::new(PoolOptions { threads: Some(2), pin: false }).expect("threads")
}

#[derive(Default)]
struct Compare {
    outcomes: Vec<Outcome>,
}

impl Visitor for Compare {
    fn visit<C: Case>(&mut self, case: &C) {
        self.outcomes.push(check(case, &cpu, true));
    }
}

#[test]
fn every_operation_agrees_with_the_reference() {
    let mut compare = Compare::default();
    for_each(&mut compare);
    assert!(compare.outcomes.len() >= 60, "{} cases", compare.outcomes.len());
    let faults: Vec<String> = compare
        .outcomes
        .iter()
        .filter_map(|o| Some(format!("{}: {}", o.name, o.fault.as_ref()?)))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
