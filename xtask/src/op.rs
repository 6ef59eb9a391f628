//! `cargo xtask op`: one operation, or all, on a backend, against the reference.

use std::time::Instant;

use anyhow::{Context as _, bail};
use backend::cases::{Case, Outcome, Visitor, check, for_each};
use backend_cpu::{Cpu, PoolOptions};
use backend_cuda::Cuda;
use clap::ValueEnum;

/// Run the case list of an operation on a backend
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only cases whose name contains this, such as `attend` or `Q8_0`
    #[arg(default_value = "")]
    filter: String,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    backend: BackendArg,
    /// Threads of the CPU backend
    #[arg(long, default_value = "2")]
    threads: usize,
}

/// Which backend is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    /// Threads and vector instructions
    Cpu,
    /// The first CUDA device
    Cuda,
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
        let start = Instant::now();
        let outcome = self.args.check(case);
        let time = start.elapsed();
        self.n += 1;
        let verdict = outcome.fault.as_deref().unwrap_or("ok");
        self.faults += usize::from(outcome.fault.is_some());
        println!("{:>9.1?}  nmse {:.1e}  {}  {verdict}", time, outcome.nmse, outcome.name);
    }
}

impl Args {
    fn check(&self, case: &impl Case) -> Outcome {
        match self.backend {
            BackendArg::Cpu => {
                let options = PoolOptions { threads: Some(self.threads), pin: false };
                let refused = |e| panic!("the system refuses a thread: {e}");
                check(case, &|| Cpu::new(options).unwrap_or_else(refused), true)
            }
            BackendArg::Cuda => {
                let lost = |e| panic!("the device was there a moment ago: {e}");
                check(case, &|| Cuda::open(0).unwrap_or_else(lost), false)
            }
        }
    }

    /// Prints a line a case; fails when one does.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if self.backend == BackendArg::Cuda {
            let device = Cuda::open(0)?;
            println!("{}, sm_{}", device.description().name, device.description().arch);
        }
        let mut show = Show { args: self, n: 0, faults: 0 };
        for_each(&mut show);
        if show.n == 0 {
            bail!("no case is called {:?}", self.filter);
        }
        let failed = show.faults;
        (failed == 0).then_some(()).with_context(|| format!("{failed} of {} cases failed", show.n))
    }
}
