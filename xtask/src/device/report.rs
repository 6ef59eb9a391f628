//! One line a check, and what came of all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::bail;
use backend_cuda::driver::Driver;

/// Checks that were run.
pub(super) struct Report {
    /// None where the processor computes.
    device: Option<Arc<dyn Driver>>,
    n: usize,
    failed: Vec<String>,
    /// Why nothing more can be computed, once that is so.
    lost: Option<String>,
}

impl Report {
    pub(super) fn new(device: Option<Arc<dyn Driver>>) -> Self {
        Self { device, n: 0, failed: Vec::new(), lost: None }
    }

    /// Runs a check, which gives its figures or says what is wrong; a panic is wrong, too. Once the
    /// device is lost, nothing is run.
    pub(super) fn check(
        &mut self,
        part: &str,
        name: &str,
        run: impl FnOnce() -> Result<String, String>,
    ) {
        self.n += 1;
        if self.lost.is_some() {
            self.failed.push(format!("{part}: {name}: not run"));
            return;
        }
        let start = Instant::now();
        let mut outcome = quietly(run);
        if let Some(Err(error)) = self.device.as_ref().map(|device| device.wait()) {
            self.lost = Some(error.to_string());
            outcome = outcome.and(Err(error.to_string()));
        }
        let (verdict, what) = match &outcome {
            Ok(figures) => ("ok", figures),
            Err(fault) => ("FAILED", fault),
        };
        println!(
            "{verdict:<6} {:>7.2} s  {part:<7} {name:<52} {what}",
            start.elapsed().as_secs_f64()
        );
        if let Err(fault) = outcome {
            self.failed.push(format!("{part}: {name}: {fault}"));
        }
    }

    /// What failed; an error when anything did, or nothing was run.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        for line in &self.failed {
            println!("FAILED {line}");
        }
        if let Some(why) = self.lost {
            println!("the device was lost: {why}");
        }
        match (self.n, self.failed.len()) {
            (0, _) => bail!("nothing fits --only, --cases and --without"),
            (n, 0) => println!("all {n} checks passed"),
            (n, failed) => bail!("{failed} of {n} checks failed"),
        }
        Ok(())
    }
}

/// The outcome of `run`; what a panic said is its error, and is not printed a second time.
fn quietly(run: impl FnOnce() -> Result<String, String>) -> Result<String, String> {
    let said = Arc::new(Mutex::new(String::new()));
    let hook = std::panic::take_hook();
    let heard = Arc::clone(&said);
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("a panic without words");
        let place = info.location().map_or(String::new(), |at| format!(" ({at})"));
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = format!("{text}{place}");
    }));
    // What a broken check leaves half done is dropped with it.
    let outcome = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    outcome.unwrap_or_else(|_| Err(said.lock().unwrap_or_else(PoisonError::into_inner).clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_or_errs_has_failed() {
        let mut report = Report::new(None);
        report.check("part", "fine", || Ok("figures".to_owned()));
        assert!(report.failed.is_empty());
        report.check("part", "wrong", || Err("too far".to_owned()));
        report.check("part", "panics", || panic!("a broken law"));
        assert_eq!(report.failed[0], "part: wrong: too far");
        assert!(
            report.failed[1].starts_with("part: panics: a broken law ("),
            "{:?}",
            report.failed
        );
        assert!(report.finish().is_err());
        assert!(Report::new(None).finish().is_err(), "nothing checked is no success");
    }
}
