//! `cargo xtask op`: one operation, or all, on a backend, against the reference.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use backend::cases::{Case, Outcome, Visitor, check, for_each};
use backend_cpu::{Cpu, PoolOptions};
use backend_cuda::Cuda;
use backend_cuda::driver::{Driver, nvidia::Nvidia};
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
pub(crate) enum BackendArg {
    /// Threads and vector instructions
    Cpu,
    /// The first CUDA device
    Cuda,
}

struct Show<'a> {
    args: &'a Args,
    /// The device that all cases share; without one, the CPU is checked.
    device: Option<Arc<dyn Driver>>,
    n: usize,
    faults: usize,
}

impl Visitor for Show<'_> {
    fn visit<C: Case>(&mut self, case: &C) {
        if !case.name().contains(&self.args.filter) {
            return;
        }
        let start = Instant::now();
        let outcome = self.check(case);
        let time = start.elapsed();
        self.n += 1;
        let verdict = outcome.fault.as_deref().unwrap_or("ok");
        self.faults += usize::from(outcome.fault.is_some());
        println!("{:>9.1?}  nmse {:.1e}  {}  {verdict}", time, outcome.nmse, outcome.name);
    }
}

impl Show<'_> {
    fn check(&self, case: &impl Case) -> Outcome {
        match &self.device {
            Some(device) => check(case, &|| Cuda::with_driver(device.clone()), false),
            None => {
                let options = PoolOptions { threads: Some(self.args.threads), pin: false };
                let refused = |e| panic!("the system refuses a thread: {e}");
                check(case, &|| Cpu::new(options).unwrap_or_else(refused), true)
            }
        }
    }
}

impl Args {
    /// Prints a line a case; fails when one does.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut show = Show { args: self, device: None, n: 0, faults: 0 };
        if self.backend == BackendArg::Cuda {
            let device = Arc::new(Nvidia::open(0)?);
            let about = device.description();
            println!("{}, sm_{}", about.name, about.arch);
            show.device = Some(device);
        }
        for_each(&mut show);
        if show.n == 0 {
            bail!("no case is called {:?}", self.filter);
        }
        let failed = show.faults;
        (failed == 0).then_some(()).with_context(|| format!("{failed} of {} cases failed", show.n))
    }
}
