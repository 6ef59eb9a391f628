//! What `keid bench` refuses.

use std::process::Command;

#[test]
fn ways_of_a_gpu_are_refused_elsewhere() {
    for backend in ["cpu", "auto"] {
        let mut keid = Command::new(env!("CARGO_BIN_EXE_keid"));
        keid.args(["bench", "--synth", "tiny", "--trial", "kernels=.", "--backend", backend]);
        let output = keid.output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("--trial: expected --backend cuda"), "{error}");
    }
    let mut keid = Command::new(env!("CARGO_BIN_EXE_keid"));
    let output = keid.args(["bench", "--trial", "fast"]).output().expect("the binary runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("expected kernels=DIR, found \"fast\""), "{error}");
}
