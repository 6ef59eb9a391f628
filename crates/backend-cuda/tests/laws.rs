//! The engine's laws with the kernels on the emulator; `cargo xtask device` walks further on a GPU.

mod emulator;

use engine::RowFormat;
use tests::laws::{Agreement, Law, walk};

/// Kernels for few rows and for many add in other orders. The second and third model have MXFP4 weights.
#[test]
fn a_walk_ends_where_a_fresh_engine_does() {
    for (rows, step_rows, seed) in
        [(RowFormat::F32, 80, 3), (RowFormat::F32, 20, 2), (RowFormat::Model, 160, 37)]
    {
        let agreement = |_| Agreement::Near { rms: 1e-4, gap: 1e-3 };
        let law = Law { rows, step_rows, agreement };
        let seen = walk(seed, 12, law, &|_| emulator::cuda_90());
        println!("steps of {step_rows}, seed {seed}: {seen:?}");
        assert!(seen.rows > 0);
    }
}
