//! Whole models: the laws, golden logits, keid-tiny.

use std::path::Path;

use backend::{Ops, SendOps};
use engine::RowFormat;
use testkit::golden::Golden;
use testkit::oracle::{self, Scheme};
use tests::laws::{Agreement, Law, walk};
use tests::rounded::{self, Seen};
use tests::tiny::{Allowed, EXACT, LENGTHS, MODEL, NEAR_TIE, Tiny};
use tests::{Run, check};

use super::report::Report;

/// Steps of a walk.
const STEPS: usize = 25;

/// Walks over random models. Kernels for few, more and many rows add in different orders.
pub(super) fn laws<B: SendOps>(walks: u64, make: &dyn Fn() -> B, report: &mut Report) {
    for (rows, step_rows, first) in [
        (RowFormat::F32, 48, 100),
        // More rows than kernels for few take, so that prompts go through those for many.
        (RowFormat::F32, 160, 200),
        (RowFormat::Model, 48, 0),
        (RowFormat::Model, 160, 300),
    ] {
        let agreement = if rows == RowFormat::F32 { as_stored } else { rounded };
        for seed in first..first + walks {
            let name = format!("{} rows, steps of {step_rows}, seed {seed}", rows.name());
            report.check("laws", &name, || {
                let law = Law { rows, step_rows, agreement };
                let seen = walk(seed, STEPS, law, &|_| make());
                Ok(format!("{} rows of logits, rms {:.1e} of the spread", seen.rows, seen.rms))
            });
        }
    }
}

/// Rows as they are. Float weights: sums in another order, 10⁻⁶ of the spread on the emulator.
fn as_stored(scheme: Scheme) -> Agreement {
    match scheme {
        Scheme::F32 | Scheme::F16 | Scheme::Bf16 => Agreement::Near { rms: 1e-4, gap: 1e-3 },
        _ => blocks(),
    }
}

/// Rows rounded to FP8 and FP4 besides: a value at a boundary falls to either side, by a sixteenth of
/// it and a quarter, and may turn which rows the indexer picks.
fn rounded(scheme: Scheme) -> Agreement {
    match scheme {
        Scheme::F32 | Scheme::F16 | Scheme::Bf16 => Agreement::Near { rms: 0.1, gap: 0.2 },
        _ => blocks(),
    }
}

/// Few rows meet block formats with activations of eight bits, many rows on sm_90 with f16. In models as
/// small as these the difference turns choices of experts and rows, and logits move by a part of their
/// spread: walks with Q8_0 on the emulator show 0.03, and 0.40 with rounded rows.
fn blocks() -> Agreement {
    Agreement::Near { rms: 0.5, gap: 1.0 }
}

/// Largest and rms difference of logits.
type Allowance = (f32, f32);

/// Rounded rows: values at boundaries. Many rows: activations of f16, but of eight bits for the head.
const ROUNDED: Allowance = (0.25, 0.05);
/// Activations of eight bits in every product with Q8_0. The reference that rounds the same ([`steps`]) shows
/// for sums in 24 to 60 other orders up to 0.44 and 0.074, typically 0.18 and 0.050.
const EIGHT_BITS: Allowance = (0.5, 0.08);
/// The same where the choice of experts for one of the four rows may turn. For the last token of Q2/130 expert
/// 0 of layer 5 leads expert 2 for the third place by 0.019 (score and bias added), after rounding by 0.005;
/// for the last but one of Q8_0/300 expert 4 of layer 3 leads expert 2 by 0.0014, after rounding it is 0.006
/// behind. The reference that rounds the same is then off by up to 1.4 and 0.23, for 4 of 60 orders and for 12
/// of 24 or more; for Q4_K/300 it is for 1 of 24, by 0.85 and 0.14.
const TURNED: Allowance = (2.0, 0.3);
const NEAR_TIES: [(&str, usize); 3] = [("q2", 130), ("q8_0", 300), ("q4k", 300)];
/// Up to so many rows of a step, activations are rounded to eight bits.
const FEW_ROWS: usize = 64;

/// What a run of rounded activations or rows may differ by.
fn allowance(run: &Run<'_>, n: usize) -> Allowance {
    let dense = matches!(run.scheme, Scheme::Q8_0 | Scheme::Q4K | Scheme::Q2);
    match dense && n.min(run.chunk) <= FEW_ROWS {
        true if NEAR_TIES.contains(&(run.variant, n)) => TURNED,
        true => EIGHT_BITS,
        false => ROUNDED,
    }
}

/// `tiny_a`, which amplifies, and `tiny_c`, which does not, against a double-precision model. `eight_bits`:
/// few rows meet Q8_0 with activations of eight bits.
pub(super) fn golden<B: Ops>(make: &dyn Fn() -> B, eight_bits: bool, report: &mut Report) {
    let (a, c) = (oracle::Config::tiny_a(), oracle::Config::tiny_c());
    let (f32s, tails) = (RowFormat::F32, RowFormat::ModelWideTail);
    // Float weights: sums of products of at least 22 bits.
    let float_a = Some((2e-3, 5e-4));
    let float_c = Some((5e-4, 1e-4));
    for (config, scheme, variant, rows, chunks, float) in [
        (&a, Scheme::F32, "exact", f32s, [256, 8], float_a),
        (&c, Scheme::F32, "exact", f32s, [64, 1], float_c),
        (&c, Scheme::F16, "exact", f32s, [256, 8], float_c),
        (&c, Scheme::Bf16, "exact", f32s, [256, 8], float_c),
        (&c, Scheme::Q8_0, "q8_0", f32s, [300, 8], None),
        (&c, Scheme::Q4K, "q4k", f32s, [300, 8], None),
        (&c, Scheme::Q2, "q2", f32s, [300, 8], None),
        (&c, Scheme::Mxfp4, "fp8fp4", f32s, [300, 8], None),
        (&c, Scheme::F32, "qat", tails, [128, 8], None),
    ] {
        for chunk in chunks {
            let name = format!("{} {} {variant}, chunks of {chunk}", config.name, scheme.name());
            report.check("golden", &name, || {
                let golden = Golden::load(&config.name);
                let run = Run { config, scheme, variant, rows, chunk };
                let allowed = |n| match float {
                    Some(float) => float,
                    None if eight_bits => allowance(&run, n),
                    None => ROUNDED,
                };
                let (max, rms) = check(&golden, &run, &allowed, make);
                Ok(format!("max {max:.1e}, rms {rms:.1e}"))
            });
        }
    }
}

/// Steps of few rows against the reference that rounds activations as the device does: what [`golden`] must
/// allow for rounding hides no fault of a kernel.
pub(super) fn steps<B: Ops>(make: &dyn Fn() -> B, report: &mut Report) {
    // From 3 on: some steps end where windows of both compressors do.
    let places: Vec<usize> = (3..300).step_by(11).collect();
    let config = oracle::Config::tiny_c();
    for scheme in [Scheme::Q8_0, Scheme::Q4K, Scheme::Q2, Scheme::Mxfp4] {
        let name = format!("{} {}, steps of few rows", config.name, scheme.name());
        report.check("golden", &name, || {
            let rounds = backend_cuda::rounds(scheme.gated());
            let seen = rounded::steps((&config, scheme), &places, rounds, make());
            let Seen { rows, same, turned, rms } = seen;
            let found = format!(
                "{same:?} of {rows} rows in steps of 1, 4 and 8 agree, {turned} turned, rms {rms:.1e}"
            );
            if seen.all_sizes_agree() { Ok(found) } else { Err(found) }
        });
    }
}

/// keid-tiny, whose logits have a standard deviation of 2.6 to 3.8. Its weights have eight and four bits, and
/// few rows meet them with activations of eight; at a near tie of the router, or with rounded rows besides,
/// a choice can turn, which moved logits of a token by 1.7 ([`NEAR_TIE`]) and of earlier weights by 2.7.
pub(super) fn tiny<B: Ops>(root: &Path, make: &dyn Fn() -> B, report: &mut Report) {
    let eight_bits = Allowed { max: 1.0, rms: 0.2, gap: 1.0 };
    let boundaries = Allowed { max: 4.0, rms: 0.4, gap: 1.0 };
    for (numerics, allowed) in [(EXACT, eight_bits), (MODEL, boundaries)] {
        for n in LENGTHS {
            // Token by token only where that is short.
            for chunk in if n <= 130 { &[300, 1][..] } else { &[300] } {
                let name = format!("{}, {n} tokens, chunks of {chunk}", numerics.0);
                let allowed = if (numerics.0, n) == NEAR_TIE { boundaries } else { allowed };
                report.check("tiny", &name, || {
                    let found = Tiny::open(root).check(make(), (n, *chunk), numerics, allowed);
                    Ok(figures(found, (allowed.max, allowed.rms)))
                });
            }
        }
    }
}

fn figures((max, rms): Allowance, allowed: Allowance) -> String {
    format!("max {max:.1e} of {:.1e}, rms {rms:.1e} of {:.1e}", allowed.0, allowed.1)
}
