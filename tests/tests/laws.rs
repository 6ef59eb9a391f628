//! The engine's laws on random tiny models.

use backend::reference::Reference;
use engine::RowFormat;
use tests::laws::walk;

#[test]
fn reference_with_the_models_rounding() {
    for seed in 0..12 {
        walk(seed, 30, RowFormat::Model, &|_| Reference::new());
    }
}

#[test]
fn reference_without_rounding() {
    for seed in 100..106 {
        walk(seed, 30, RowFormat::F32, &|_| Reference::new());
    }
}
