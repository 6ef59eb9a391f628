//! The one list of cases per operation, run on every backend against the reference.
//!
//! A case makes its inputs from a formula, so that two backends get the same; it computes its rows
//! in one step or one by one. [`check`] compares with the reference (NMSE, finiteness), looks at
//! the guard row behind every output, and compares the bits of rows computed together and alone.
//!
//! Shapes: Flash and Pro widths with few rows and outputs, and odd small ones.

mod attend;
mod compress;
mod embed;
mod hyper_connection;
mod index_top_k;
mod inputs;
mod matmul;
mod norm;
mod rope_tail;
mod route;
mod routed_experts;
mod sample;
mod swiglu;

use crate::error::Result;
use crate::ops::Ops;
use crate::reference::Reference;

/// How far a backend may be from the reference, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest Σ(got − want)² / Σ want².
    pub nmse: f64,
    /// What makes the difference.
    pub reason: &'static str,
}

impl Tolerance {
    /// Nothing rounds: indices, copies, stored rows.
    pub const EXACT: Self = Self { nmse: 0.0, reason: "nothing is rounded" };
    /// f32 sums in another order, other roundings of exp.
    pub const FLOAT: Self = Self { nmse: 1e-10, reason: "f32 sums in another order" };
}

/// One set of inputs for one operation.
pub trait Case {
    /// Operation, shape and types.
    fn name(&self) -> String;
    /// What is allowed.
    fn tolerance(&self) -> Tolerance;
    /// Rows that the case computes.
    fn rows(&self) -> usize;
    /// Prepares `be` and computes all rows, `chunk` of them a step. `[rows, outputs]`, flattened.
    ///
    /// # Errors
    /// The backend's.
    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>>;
}

/// Something done with every case.
pub trait Visitor {
    /// Called once for each case.
    fn visit<C: Case>(&mut self, case: &C);
}

/// Shows `visitor` every case.
pub fn for_each(visitor: &mut impl Visitor) {
    embed::cases(visitor);
    matmul::cases(visitor);
    norm::cases(visitor);
    rope_tail::cases(visitor);
    hyper_connection::cases(visitor);
    compress::cases(visitor);
    index_top_k::cases(visitor);
    attend::cases(visitor);
    route::cases(visitor);
    routed_experts::cases(visitor);
    swiglu::cases(visitor);
    sample::cases(visitor);
}

/// What one comparison found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub name: String,
    /// Its distance from the reference.
    pub nmse: f64,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// Rows computed alone and together differ in some bit.
    pub varies: bool,
    /// The first thing that is wrong, if any.
    pub fault: Option<String>,
}

/// Runs `case` on a fresh backend and on the reference. `bits` demands equal bits of rows computed
/// alone and together; without it they must be as near as the reference is.
pub fn check<C: Case, B: Ops>(case: &C, make: &dyn Fn() -> B, bits: bool) -> Outcome {
    let (name, tolerance) = (case.name(), case.tolerance());
    let fail = |fault: String| Outcome {
        name: name.clone(),
        nmse: f64::NAN,
        tolerance,
        varies: false,
        fault: Some(fault),
    };
    let want = match case.run(&mut Reference::new(), case.rows()) {
        Ok(want) => want,
        Err(error) => return fail(format!("the reference failed: {error}")),
    };
    let (together, alone) = match (case.run(&mut make(), case.rows()), case.run(&mut make(), 1)) {
        (Ok(together), Ok(alone)) => (together, alone),
        (Err(error), _) | (_, Err(error)) => return fail(error.to_string()),
    };
    if together.len() != want.len() || alone.len() != want.len() {
        return fail(format!("{} outputs, expected {}", together.len(), want.len()));
    }
    let varies = together.iter().zip(&alone).any(|(a, b)| a.to_bits() != b.to_bits());
    let nmse = nmse(&together, &want).max(self::nmse(&alone, &want));
    let fault = if let Some(i) = together.iter().position(|v| !v.is_finite()) {
        Some(format!("output {i} is {}", together[i]))
    } else if nmse > tolerance.nmse {
        Some(format!("nmse {nmse:.3e}, allowed {:.3e} ({})", tolerance.nmse, tolerance.reason))
    } else if bits && varies {
        let i = together.iter().zip(&alone).position(|(a, b)| a.to_bits() != b.to_bits());
        Some(format!("output {i:?} depends on the rows beside it"))
    } else {
        None
    };
    Outcome { name, nmse, tolerance, varies, fault }
}

/// Σ(got − want)² / Σ want²; infinite when a value is not finite.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let norm: f64 = want.iter().map(|w| square(*w)).sum();
    match (error, norm) {
        (error, _) if !error.is_finite() => f64::INFINITY,
        (0.0, _) => 0.0,
        (error, norm) => error / norm.max(f64::MIN_POSITIVE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference agrees with itself on every case: the cases run, and its rows are invariant.
    struct OnReference {
        n: usize,
        faults: Vec<String>,
    }

    impl Visitor for OnReference {
        fn visit<C: Case>(&mut self, case: &C) {
            self.n += 1;
            let outcome = check(case, &Reference::new, true);
            self.faults.extend(outcome.fault.map(|fault| format!("{}: {fault}", outcome.name)));
        }
    }

    #[test]
    fn every_case_runs_on_the_reference_and_its_rows_are_invariant() {
        let mut visitor = OnReference { n: 0, faults: Vec::new() };
        for_each(&mut visitor);
        assert!(visitor.faults.is_empty(), "{:#?}", visitor.faults);
        assert!(visitor.n >= 60, "{} cases", visitor.n);
    }

    #[test]
    fn a_wrong_number_is_seen() {
        assert_eq!(nmse(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!(nmse(&[1.0, 2.001], &[1.0, 2.0]) > 1e-8);
        assert!(nmse(&[1.0, f32::NAN], &[1.0, 2.0]).is_infinite());
    }
}
