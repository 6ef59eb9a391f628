//! Official tensor names and what GGUF files call them.

/// Names outside the layers.
const ROOT: [(&str, &str); 6] = [
    ("embed.weight", "token_embd"),
    ("norm.weight", "output_norm"),
    ("head.weight", "output"),
    ("hc_head_fn", "output_hc_fn"),
    ("hc_head_base", "output_hc_base"),
    ("hc_head_scale", "output_hc_scale"),
];

/// Names within a block; routed experts are stacked, so theirs lack a number.
const BLOCK: [(&str, &str); 44] = [
    ("hc_attn_fn", "hc_attn_fn"),
    ("hc_attn_base", "hc_attn_base"),
    ("hc_attn_scale", "hc_attn_scale"),
    ("hc_ffn_fn", "hc_ffn_fn"),
    ("hc_ffn_base", "hc_ffn_base"),
    ("hc_ffn_scale", "hc_ffn_scale"),
    ("attn_norm.weight", "attn_norm"),
    ("ffn_norm.weight", "ffn_norm"),
    ("attn.attn_sink", "attn_sinks"),
    ("attn.wq_a.weight", "attn_q_a"),
    ("attn.q_norm.weight", "attn_q_a_norm"),
    ("attn.wq_b.weight", "attn_q_b"),
    ("attn.wkv.weight", "attn_kv"),
    ("attn.kv_norm.weight", "attn_kv_a_norm"),
    ("attn.wo_a.weight", "attn_output_a"),
    ("attn.wo_b.weight", "attn_output_b"),
    ("attn.compressor.ape", "attn_compressor_ape"),
    ("attn.compressor.wkv.weight", "attn_compressor_kv"),
    ("attn.compressor.wgate.weight", "attn_compressor_gate"),
    ("attn.compressor.norm.weight", "attn_compressor_norm"),
    ("attn.indexer.wq_b.weight", "indexer.attn_q_b"),
    ("attn.indexer.weights_proj.weight", "indexer.proj"),
    ("attn.indexer.compressor.ape", "indexer_compressor_ape"),
    ("attn.indexer.compressor.wkv.weight", "indexer_compressor_kv"),
    ("attn.indexer.compressor.wgate.weight", "indexer_compressor_gate"),
    ("attn.indexer.compressor.norm.weight", "indexer_compressor_norm"),
    ("ffn.gate.weight", "ffn_gate_inp"),
    ("ffn.gate.tid2eid", "ffn_gate_tid2eid"),
    ("ffn.shared_experts.w1.weight", "ffn_gate_shexp"),
    ("ffn.shared_experts.w2.weight", "ffn_down_shexp"),
    ("ffn.shared_experts.w3.weight", "ffn_up_shexp"),
    ("ffn.experts.w1", "ffn_gate_exps"),
    ("ffn.experts.w2", "ffn_down_exps"),
    ("ffn.experts.w3", "ffn_up_exps"),
    ("e_proj.weight", "e_proj"),
    ("h_proj.weight", "h_proj"),
    ("enorm.weight", "enorm"),
    ("hnorm.weight", "hnorm"),
    ("norm.weight", "norm"),
    ("hc_head_fn", "hc_head_fn"),
    ("hc_head_base", "hc_head_base"),
    ("hc_head_scale", "hc_head_scale"),
    // llama.cpp's MTP block joins e_proj and h_proj into one matrix.
    ("eh_proj.weight", "eh_proj"),
    ("ffn.gate.bias", "exp_probs_b"),
];

/// The GGUF name of an official tensor in ds4's layout: `blk.N.*` and `mtp.N.*`.
pub(super) fn gguf_name(official: &str) -> String {
    if let Some((_, name)) = ROOT.iter().find(|(o, _)| *o == official) {
        return format!("{name}.weight");
    }
    let mut parts = official.splitn(3, '.');
    let (kind, number, rest) = (parts.next(), parts.next(), parts.next());
    let prefix = if kind == Some("layers") { "blk" } else { "mtp" };
    let name = suffix(rest.unwrap_or_default());
    format!("{prefix}.{}.{name}", number.unwrap_or_default())
}

/// The GGUF name of a tensor of the MTP block in llama.cpp's layout, as block `block`.
///
/// `side_file` says whether the file holds the MTP block alone; the block's own stream collapse has
/// the root names there, which a joint file needs for the main model's.
pub(super) fn llama_mtp_name(official: &str, block: usize, side_file: bool) -> String {
    let rest = official.strip_prefix("mtp.0.").expect("a tensor of the MTP block");
    let name = suffix(rest);
    match rest {
        "norm.weight" => format!("blk.{block}.nextn.shared_head_norm.weight"),
        "eh_proj.weight" | "enorm.weight" | "hnorm.weight" => format!("blk.{block}.nextn.{name}"),
        _ if rest.starts_with("hc_head_") && side_file => {
            format!("output_hc_{}", &name["hc_head_".len()..])
        }
        _ if rest.starts_with("hc_head_") => format!("blk.{block}.nextn.{name}"),
        _ => format!("blk.{block}.{name}"),
    }
}

fn suffix(rest: &str) -> String {
    let found = BLOCK.iter().find(|(o, _)| *o == rest);
    let (_, name) = found.unwrap_or_else(|| panic!("no GGUF name for {rest:?}"));
    let ending = if *name == "exp_probs_b" { "bias" } else { "weight" };
    format!("{name}.{ending}")
}
