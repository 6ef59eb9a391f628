//! Every file that the golden data was computed from, byte for byte.

use sha2::{Digest, Sha256};
use testkit::{
    golden::Golden,
    oracle::{Config, Mtp, Scheme, Weights, tokens_for, write_gguf_from, write_safetensors},
};

fn models() -> [Config; 2] {
    [Config::tiny_a(), Config::tiny_c()]
}

fn assert_hash(golden: &Golden, file: &str, bytes: &[u8]) {
    let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(golden.meta()["files"][file], hash, "{file}, {} bytes", bytes.len());
}

#[test]
fn files_equal_the_published_hashes() {
    for config in models() {
        let golden = Golden::load(&config.name);
        let weights = Weights::new(&config);
        for scheme in Scheme::ALL {
            if scheme == Scheme::Bf16 {
                continue; // The oracle's models have no GGUF in BF16.
            }
            let bytes = write_gguf_from(&config, &weights, scheme, Mtp::Without);
            assert_hash(&golden, &format!("{}-{}.gguf", config.name, scheme.name()), &bytes);
        }
        let bytes = write_gguf_from(&config, &weights, Scheme::Q8_0, Mtp::Ds4File);
        assert_hash(&golden, &format!("{}-mtp-q8_0.gguf", config.name), &bytes);
        for (mixed, name) in [(false, "bf16"), (true, "fp8fp4")] {
            let file = format!("{}-official-{name}/model.safetensors", config.name);
            assert_hash(&golden, &file, &write_safetensors(&weights, mixed));
        }
    }
}

#[test]
fn prompts_equal_the_golden_ones() {
    for config in models() {
        let golden = Golden::load(&config.name);
        for key in golden.keys("tokens/") {
            let n: usize = key["tokens/".len()..].parse().unwrap();
            let ids: Vec<i32> = tokens_for(&config, n).iter().map(|&id| id as i32).collect();
            assert_eq!(golden.i32(key), (vec![n], ids));
        }
    }
}

#[test]
fn golden_arrays_have_their_shapes() {
    let golden = Golden::load("tiny_a");
    let (shape, logits) = golden.f32("exact/300/logits");
    assert_eq!((shape, logits.len()), (vec![4, 512], 2048));
    assert_eq!(golden.i32("exact/300/greedy").0, [32]);
    assert!(golden.contains("qat/300/logits") && !golden.contains("qat/300/nothing"));
}
