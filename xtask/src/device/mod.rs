//! `cargo xtask device`: whether a real GPU computes what it should.
//!
//! Every operation against the reference, the engine's laws, golden logits of small models and of
//! keid-tiny, and an answer. Each check is a line; those that failed are listed again at the end.
//! Checks are the tests' own: a broken one panics, which is its verdict here.

mod answer;
mod models;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use backend::cases::{Case, Visitor, check, for_each};
use backend::{Ops, SendOps};
use backend_cpu::{Cpu, PoolOptions};
use backend_cuda::driver::{Driver, nvidia::Nvidia};
use backend_cuda::{Cuda, Trials};
use clap::ValueEnum;

use crate::op::BackendArg;
use report::Report;

/// Check everything that a GPU computes; under `compute-sanitizer` too
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask device                                      everything, on the first GPU
  cargo xtask device --only cases --cases attend,route    the cases of two operations
  compute-sanitizer --tool racecheck target/release/xtask device --cases 'matmul Q8_0'")]
pub(crate) struct Args {
    /// What to check [default: everything, or only the cases where --cases names some]
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    only: Vec<Part>,
    /// Only cases whose name contains one of these
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',')]
    cases: Vec<String>,
    /// No cases whose name contains one of these; they come after --cases
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',')]
    without: Vec<String>,
    /// Random walks of each kind for the laws
    #[arg(long, value_name = "N", default_value = "8")]
    walks: u64,
    /// A copy of the repository, for its model and golden files
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// Which GPU
    #[arg(long, value_name = "N", default_value = "0")]
    device: usize,
    /// Ways to compute that are not the default: kernels=DIR
    #[arg(long, value_name = "WORD,…", default_value = "")]
    trial: Trials,
    /// What computes; the processor only to see that the checks themselves work
    #[arg(long, value_enum, default_value = "cuda")]
    backend: BackendArg,
}

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every operation against the reference
    Cases,
    /// The engine's laws on random small models
    Laws,
    /// Small models against a double-precision model
    Golden,
    /// keid-tiny against the model that trained it
    Tiny,
    /// keid-tiny answers a question
    Answer,
}

struct Cases<'a, B> {
    args: &'a Args,
    make: &'a dyn Fn() -> B,
    report: &'a mut Report,
}

impl<B: Ops> Visitor for Cases<'_, B> {
    fn visit<C: Case>(&mut self, case: &C) {
        let name = case.name();
        let has = |list: &[String]| list.iter().any(|text| name.contains(text.as_str()));
        if (!self.args.cases.is_empty() && !has(&self.args.cases)) || has(&self.args.without) {
            return;
        }
        self.report.check("cases", &name, || {
            let outcome = check(case, self.make, false);
            match outcome.fault {
                Some(fault) => Err(fault),
                None => {
                    Ok(format!("nmse {:.1e}, allowed {:.1e}", outcome.nmse, outcome.tolerance.nmse))
                }
            }
        });
    }
}

impl Args {
    /// Prints a line a check; fails when one does.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if self.backend == BackendArg::Cpu {
            ensure!(self.trial == Trials::default(), "--trial: expected --backend cuda, found cpu");
            let make = || Cpu::new(PoolOptions { threads: None, pin: false });
            make().context("cannot start the threads")?;
            let mut report = Report::new(None);
            let refused = |e| panic!("the system refuses a thread: {e}");
            self.check(&|| make().unwrap_or_else(refused), false, &mut report);
            return report.finish();
        }
        let driver: Arc<dyn Driver> = Arc::new(Nvidia::open(self.device, &self.trial)?);
        let about = driver.description();
        let (free, total) = driver.memory()?;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        println!(
            "{}, sm_{}, {} multiprocessors, {:.1} of {:.1} GiB free",
            about.name,
            about.arch,
            about.sms,
            gib(free),
            gib(total)
        );
        let mut report = Report::new(Some(Arc::clone(&driver)));
        let make = || Cuda::with_driver(Arc::clone(&driver));
        self.check(&make, true, &mut report);
        report.finish()
    }

    /// `rounds`: whether few rows of activations are rounded as `backend_cuda` says.
    fn check<B: SendOps>(&self, make: &dyn Fn() -> B, rounds: bool, report: &mut Report) {
        if self.wants(Part::Cases) {
            for_each(&mut Cases { args: self, make, report });
        }
        if self.wants(Part::Laws) {
            models::laws(self.walks, make, report);
        }
        if self.wants(Part::Golden) {
            models::golden(make, rounds, report);
            if rounds {
                models::steps(make, report);
            }
        }
        if self.wants(Part::Tiny) {
            models::tiny(&self.root, make, report);
        }
        if self.wants(Part::Answer) {
            report.check("answer", "keid-tiny", || answer::ask(&self.root, make()));
        }
    }

    fn wants(&self, part: Part) -> bool {
        let chosen = self.cases.is_empty() && self.without.is_empty();
        match self.only.is_empty() {
            true => chosen || part == Part::Cases,
            false => self.only.contains(&part),
        }
    }
}
