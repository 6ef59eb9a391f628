//! The engine's laws with the kernels on the emulator; `cargo xtask device` walks further on a GPU.

mod emulator;

use engine::RowFormat;
use tests::laws::{Agreement, Law, walk};

/// Float weights: kernels for few rows and for many add in other orders.
#[test]
fn a_walk_ends_where_a_fresh_engine_does() {
    for (step_rows, seed) in [(20, 2), (80, 2), (80, 3)] {
        let agreement = |_| Agreement::Near { rms: 1e-4, gap: 1e-3 };
        let law = Law { rows: RowFormat::F32, step_rows, agreement };
        let seen = walk(seed, 12, law, &|_| emulator::cuda_90());
        println!("steps of {step_rows}, seed {seed}: {seen:?}");
        assert!(seen.rows > 0);
    }
}
