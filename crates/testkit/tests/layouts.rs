//! What the files say besides being equal to the published ones: exactness, MTP layouts, shapes.

use gguf::Gguf;
use testkit::{
    oracle::{Config, Mtp, Scheme, Weights, write_gguf, write_gguf_from},
    random,
};

/// A model whose files take no time.
fn small() -> Config {
    Config { hidden: 64, moe_inter: 64, experts: 4, ..random::config(3) }
}

fn open(config: &Config, scheme: Scheme, mtp: Mtp) -> Gguf {
    Gguf::from_vec(write_gguf(config, scheme, mtp), &config.name).unwrap()
}

fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let info = gguf.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    let mut out = vec![0.0; info.n_elements() as usize];
    quant::decode(info.ty, gguf.data(info).bytes(), &mut out).unwrap();
    out
}

#[test]
fn sixteen_bit_files_hold_the_weights_exactly() {
    let config = small();
    let exact = open(&config, Scheme::F32, Mtp::Without);
    for scheme in [Scheme::F16, Scheme::Bf16] {
        let gguf = open(&config, scheme, Mtp::Without);
        for info in exact.tensors().iter().filter(|t| t.ty.is_float()) {
            assert_eq!(values(&gguf, &info.name), values(&exact, &info.name), "{}", info.name);
        }
    }
}

#[test]
fn the_joint_file_has_the_mtp_block_behind_the_layers() {
    let config = small();
    let n = config.n_layers();
    let weights = Weights::new(&config);
    let joint = open(&config, Scheme::F32, Mtp::LlamaAppended);
    assert_eq!(joint.metadata().u32("deepseek4.nextn_predict_layers").unwrap(), 1);
    assert_eq!(joint.metadata().u32("deepseek4.block_count").unwrap() as usize, n);

    let eh = format!("blk.{n}.nextn.eh_proj.weight");
    let d = config.hidden as u64;
    assert_eq!(joint.tensor(&eh).unwrap().dims, [2 * d, d]);
    let rows = values(&joint, &eh);
    let (e, h) = (weights.get("mtp.0.e_proj.weight"), weights.get("mtp.0.h_proj.weight"));
    for (row, both) in rows.chunks(2 * config.hidden).enumerate() {
        let half = row * config.hidden..(row + 1) * config.hidden;
        assert_eq!(both[..config.hidden], e.f32()[half.clone()]);
        assert_eq!(both[config.hidden..], h.f32()[half]);
    }
    for (gguf_name, official) in [
        ("nextn.shared_head_norm.weight", "mtp.0.norm.weight"),
        ("nextn.hc_head_fn.weight", "mtp.0.hc_head_fn"),
        ("nextn.enorm.weight", "mtp.0.enorm.weight"),
        ("attn_q_a.weight", "mtp.0.attn.wq_a.weight"),
        ("exp_probs_b.bias", "mtp.0.ffn.gate.bias"),
    ] {
        let stored = values(&joint, &format!("blk.{n}.{gguf_name}"));
        assert_eq!(stored, weights.get(official).f32());
    }
    assert_eq!(values(&joint, "output_hc_fn.weight"), weights.get("hc_head_fn").f32());

    let side = open(&config, Scheme::F32, Mtp::LlamaFile);
    assert_eq!(values(&side, "output_hc_fn.weight"), weights.get("mtp.0.hc_head_fn").f32());
    assert!(side.tensor("token_embd.weight").is_none() && side.tensor(&eh).is_some());
    let main = open(&config, Scheme::F32, Mtp::Without);
    assert_eq!(main.tensors().len() + side.tensors().len(), joint.tensors().len());
}

/// Shapes far from the golden models': what the generator must also be able to make.
#[test]
fn other_shapes() {
    let config = Config {
        name: "wide".to_owned(),
        window: 16,
        heads: 16,
        head_dim: 192,
        o_groups: 16,
        index_heads: 16,
        ..small()
    };
    let gguf = open(&config, Scheme::F16, Mtp::Ds4File);
    assert_eq!(gguf.tensor("mtp.0.attn_output_a.weight").unwrap().cols(), 192);
    let gguf = open(&config, Scheme::Q8_0, Mtp::Without);
    assert_eq!(gguf.metadata().u32("deepseek4.attention.sliding_window").unwrap(), 16);
    assert_eq!(gguf.tensor("blk.0.attn_q_b.weight").unwrap().rows(), 16 * 192);
}

#[test]
fn files_are_functions_of_their_configuration() {
    let config = small();
    let weights = Weights::new(&config);
    let first = write_gguf(&config, Scheme::Mxfp4, Mtp::Without);
    assert_eq!(first, write_gguf_from(&config, &weights, Scheme::Mxfp4, Mtp::Without));
    let other = Config { seed: config.seed + 1, ..config };
    assert_ne!(first, write_gguf(&other, Scheme::Mxfp4, Mtp::Without));
}
