//! The reader against mutants of valid files. `cargo run --release -p gguf --example mutate` runs
//! more of them.

mod harness;

#[test]
fn mutants_are_read_or_refused() {
    let report = harness::run(1, 200_000);
    // The mutants must reach deep: if all were refused at the first field this would test nothing.
    let refused: u64 = report.refused.values().sum();
    assert!(
        report.accepted > 20_000 && refused > 100_000,
        "{} of 200000 accepted",
        report.accepted
    );
    for kind in [
        "BigEndian",
        "Bool",
        "Count",
        "DimensionCount",
        "Dimensions",
        "DuplicateKey",
        "NestedArray",
        "DuplicateTensor",
        "Misaligned",
        "NotGguf",
        "OutOfBounds",
        "Overlap",
        "RowLength",
        "TensorType",
        "Truncated",
        "Utf8",
        "ValueType",
        "Version",
        "WrongType",
        "Alignment",
    ] {
        assert!(report.refused.contains_key(kind), "no mutant was refused for {kind}");
    }
}
