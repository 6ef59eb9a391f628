//! `cargo xtask op`: one operation, or all, on a backend, against the reference.

use std::time::Instant;

use anyhow::{Context as _, bail};
use backend::cases::{Case, Visitor, check, for_each};
use backend_cpu::{Cpu, PoolOptions};

/// Run the case list of an operation on the CPU backend
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only cases whose name contains this, such as `attend` or `Q8_0`
    #[arg(default_value = "")]
    filter: String,
    /// Threads
    #[arg(long, default_value = "2")]
    threads: usize,
}

struct Show<'a> {
    args: &'a Args,
    n: usize,
    faults: usize,
}

impl Visitor for Show<'_> {
    fn visit<C: Case>(&mut self, case: &C) {
        if !case.name().contains(&self.args.filter) {
            return;
        }
        let options = PoolOptions { threads: Some(self.args.threads), pin: false };
        let make =
            || Cpu::new(options).unwrap_or_else(|e| panic!("the system refuses a thread: {e}"));
        let start = Instant::now();
        let outcome = check(case, &make, true);
        let time = start.elapsed();
        self.n += 1;
        let verdict = outcome.fault.as_deref().unwrap_or("ok");
        self.faults += usize::from(outcome.fault.is_some());
        println!("{:>9.1?}  nmse {:.1e}  {}  {verdict}", time, outcome.nmse, outcome.name);
    }
}

impl Args {
    /// Prints a line a case; fails when one does.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut show = Show { args: self, n: 0, faults: 0 };
        for_each(&mut show);
        if show.n == 0 {
            bail!("no case is called {:?}", self.filter);
        }
        let failed = show.faults;
        (failed == 0).then_some(()).with_context(|| format!("{failed} of {} cases failed", show.n))
    }
}
