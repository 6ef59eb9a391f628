//! Whole models: the laws, golden logits, keid-tiny.

use std::path::Path;

use backend::{Ops, SendOps};
use engine::RowFormat;
use testkit::golden::Golden;
use testkit::oracle::{self, Scheme};
use tests::laws::{Agreement, Law, walk};
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

/// `tiny_a`, which amplifies, and `tiny_c`, which does not, against a double-precision model.
pub(super) fn golden<B: Ops>(make: &dyn Fn() -> B, report: &mut Report) {
    let (a, c) = (oracle::Config::tiny_a(), oracle::Config::tiny_c());
    let (f32s, tails) = (RowFormat::F32, RowFormat::ModelWideTail);
    // Float weights: sums of products of at least 22 bits. Block formats: activations of eight bits,
    // which alone make 0.05 and 0.25 in this model. Rounded rows: values at boundaries.
    let float_a = (2e-3, 5e-4);
    let float_c = (5e-4, 1e-4);
    let rounded = (0.25, 0.05);
    for (config, scheme, variant, rows, chunks, allowed) in [
        (&a, Scheme::F32, "exact", f32s, [256, 8], float_a),
        (&c, Scheme::F32, "exact", f32s, [64, 1], float_c),
        (&c, Scheme::F16, "exact", f32s, [256, 8], float_c),
        (&c, Scheme::Bf16, "exact", f32s, [256, 8], float_c),
        (&c, Scheme::Q8_0, "q8_0", f32s, [300, 8], rounded),
        (&c, Scheme::Q4K, "q4k", f32s, [300, 8], rounded),
        (&c, Scheme::Q2, "q2", f32s, [300, 8], rounded),
        (&c, Scheme::Mxfp4, "fp8fp4", f32s, [300, 8], rounded),
        (&c, Scheme::F32, "qat", tails, [128, 8], rounded),
    ] {
        for chunk in chunks {
            let name = format!("{} {} {variant}, chunks of {chunk}", config.name, scheme.name());
            report.check("golden", &name, || {
                let golden = Golden::load(&config.name);
                let run = Run { config, scheme, variant, rows, chunk };
                Ok(figures(check(&golden, &run, &|_| allowed, make), allowed))
            });
        }
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

fn figures((max, rms): (f32, f32), allowed: (f32, f32)) -> String {
    format!("max {max:.1e} of {:.1e}, rms {rms:.1e} of {:.1e}", allowed.0, allowed.1)
}
