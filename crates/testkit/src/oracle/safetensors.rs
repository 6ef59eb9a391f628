//! Checkpoints in DeepSeek's own naming: one safetensors file and its `config.json`.

use serde_json::{Map, Value, json};

use super::{
    Config, Tensor, Values, Weights,
    fp::{Storage, fp4_encode, fp8_encode},
};

/// Writes `model.safetensors`.
///
/// `mixed` is the released format (FP8 and FP4 with scales); otherwise matrices and norms are BF16,
/// which holds these weights exactly, and the rest F32.
#[must_use]
pub fn write_safetensors(weights: &Weights, mixed: bool) -> Vec<u8> {
    let mut file = File { header: Map::new(), data: Vec::new() };
    for (name, tensor) in &weights.0 {
        match Storage::of(name) {
            Storage::I64 => file.add(name, "I64", &tensor.shape, ids(tensor)),
            Storage::F32 => file.add(name, "F32", &tensor.shape, floats(tensor)),
            Storage::Fp8 if mixed => {
                let coded = fp8_encode(tensor);
                let rows = coded.scales.len() / coded.scale_cols;
                file.add(name, "F8_E4M3", &tensor.shape, coded.codes);
                file.add(&scale(name), "F8_E8M0", &[rows, coded.scale_cols], coded.scales);
            }
            Storage::Fp4 if mixed => {
                let coded = fp4_encode(tensor);
                let pairs = coded.codes.as_chunks::<2>().0;
                let packed = pairs.iter().map(|[even, odd]| even | odd << 4).collect();
                let rows = tensor.shape[0];
                file.add(name, "I8", &[rows, tensor.cols() / 2], packed);
                file.add(&scale(name), "F8_E8M0", &[rows, coded.scale_cols], coded.scales);
            }
            Storage::Fp8 | Storage::Fp4 | Storage::Bf16 => {
                file.add(name, "BF16", &tensor.shape, bf16(tensor));
            }
        }
    }
    file.finish()
}

/// The `config.json` that goes with it.
#[must_use]
pub fn official_config(c: &Config, mixed: bool) -> String {
    let ratios: Vec<u32> = c.ratios.iter().copied().chain([0]).collect();
    let mut config = json!({
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
        "vocab_size": c.vocab, "hidden_size": c.hidden, "moe_intermediate_size": c.moe_inter,
        "num_hidden_layers": c.n_layers(), "num_attention_heads": c.heads,
        "num_key_value_heads": 1, "head_dim": c.head_dim, "qk_rope_head_dim": c.rope_dim,
        "q_lora_rank": c.q_lora, "o_lora_rank": c.o_lora, "o_groups": c.o_groups,
        "n_routed_experts": c.experts, "n_shared_experts": 1,
        "num_experts_per_tok": c.experts_used, "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc", "norm_topk_prob": true,
        "routed_scaling_factor": number(c.route_scale), "swiglu_limit": number(c.swiglu_limit),
        "num_hash_layers": c.hash_layers, "sliding_window": c.window, "compress_ratios": ratios,
        "compress_rope_theta": number(c.compress_theta), "rope_theta": number(c.rope_theta),
        "rope_scaling": {
            "type": "yarn", "factor": number(c.yarn_factor),
            "original_max_position_embeddings": c.yarn_original,
            "beta_fast": number(c.yarn_beta_fast), "beta_slow": number(c.yarn_beta_slow),
        },
        "index_n_heads": c.index_heads, "index_head_dim": c.index_dim,
        "index_topk": c.index_top_k, "hc_mult": c.hc, "hc_sinkhorn_iters": c.sinkhorn,
        "hc_eps": number(c.hc_eps), "rms_norm_eps": number(c.rms_eps),
        "max_position_embeddings": c.max_positions, "num_nextn_predict_layers": 1,
        "tie_word_embeddings": false, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1,
        "torch_dtype": "bfloat16",
    });
    if mixed {
        config["quantization_config"] = json!({
            "quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
            "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        });
        config["expert_dtype"] = json!("fp4");
    }
    format!("{config:#}\n")
}

/// A single-precision number with the digits that it was written with, not those of its double.
fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

struct File {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>) {
        let (start, end) = (self.data.len(), self.data.len() + bytes.len());
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        self.header.insert(name.to_owned(), entry);
        self.data.extend(bytes);
    }

    /// Length of the header, the header padded to 8 bytes, the data.
    fn finish(self) -> Vec<u8> {
        let mut header = Value::Object(self.header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.into_bytes());
        out.extend(self.data);
        out
    }
}

fn scale(name: &str) -> String {
    format!("{}.scale", name.strip_suffix(".weight").unwrap_or(name))
}

fn ids(tensor: &Tensor) -> Vec<u8> {
    match &tensor.values {
        Values::I32(ids) => ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect(),
        Values::F32(_) => panic!("weights are no expert ids"),
    }
}

fn floats(tensor: &Tensor) -> Vec<u8> {
    tensor.f32().iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn bf16(tensor: &Tensor) -> Vec<u8> {
    tensor.f32().iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
}
