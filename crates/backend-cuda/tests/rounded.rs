//! Steps of few rows with the kernels on the emulator against the reference that rounds the same.

mod emulator;

use backend::reference::{Rounding, Rounds};
use backend_cuda::{Cuda, rounds};
use testkit::oracle::{Config, Scheme};
use tests::rounded::{Seen, steps};

/// The fourth step, of one row after three of 1, 4 and 8, closes windows of both compressors; from 47 on the
/// indexer chooses.
const PLACES: [usize; 6] = [0, 14, 47, 127, 190, 250];

fn check(scheme: Scheme, rounds: Rounds, be: Cuda) -> Seen {
    let seen = steps((&Config::tiny_c(), scheme), &PLACES, rounds, be);
    println!("{}: {seen:?}", scheme.name());
    seen
}

#[test]
fn few_rows_compute_what_the_rounding_reference_does() {
    for (scheme, be) in [
        (Scheme::Q8_0, emulator::cuda()),
        (Scheme::Q4K, emulator::cuda_90()),
        (Scheme::Q2, emulator::cuda_90()),
        (Scheme::Mxfp4, emulator::cuda_90()),
    ] {
        let seen = check(scheme, rounds(scheme.gated()), be);
        assert!(seen.agrees(), "{}: {seen:?}", scheme.name());
    }
}

/// No row agrees with a reference that rounds a little otherwise.
#[test]
fn another_rounding_is_seen() {
    let other =
        |name: &str, ty| rounds(Scheme::Q2.gated())(name, ty).map(|r| Rounding { codes: 126, ..r });
    let seen = check(Scheme::Q2, other, emulator::cuda_90());
    assert!(seen.same == [0; 3] && !seen.agrees(), "{seen:?}");
}
