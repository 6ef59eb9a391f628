//! GGUF files of a model, byte for byte as the `gguf` package writes them.

use gguf::{DEFAULT_ALIGNMENT, Error, Layout, Writer};
use quant::TensorType;

use super::{
    Config, Tensor, Values, Weights, fp,
    names::{gguf_name, llama_mtp_name},
    quantise::quantise,
    tokenizer::ToyTokenizer,
};

/// What the weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Everything in single precision.
    F32,
    /// Matrices in half precision, which holds these weights exactly.
    F16,
    /// Matrices in bfloat16, which holds these weights exactly.
    Bf16,
    /// ds4's dense layout (Q8_0 and F16) with Q8_0 experts.
    Q8_0,
    /// ds4's layout with Q4_K experts.
    Q4K,
    /// ds4's 2-bit layout: IQ2_XXS gate and up, Q2_K down.
    Q2,
    /// The released FP8 and FP4 weights: experts in MXFP4, the rest exact in F16.
    Mxfp4,
}

/// Which part of the model a file holds, and in whose layout the MTP block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mtp {
    /// The main model alone.
    Without,
    /// The MTP block alone, as ds4 has it: `mtp.0.*`, `e_proj` and `h_proj` apart, no metadata.
    Ds4File,
    /// The MTP block alone, as llama.cpp has it: `blk.L.*` with `nextn.*`.
    LlamaFile,
    /// The main model with the MTP block in llama.cpp's layout behind it.
    LlamaAppended,
}

impl Scheme {
    /// All schemes.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4K, Self::Q2, Self::Mxfp4];

    /// The type of the routed experts' gate and up.
    #[must_use]
    pub fn gated(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::BF16,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q4K => TensorType::Q4K,
            Self::Q2 => TensorType::Iq2Xxs,
            Self::Mxfp4 => TensorType::Mxfp4,
        }
    }

    /// The name in file names and in the golden data.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4k",
            Self::Q2 => "q2",
            Self::Mxfp4 => "mxfp4",
        }
    }

    fn tensor_type(self, name: &str, tensor: &Tensor) -> TensorType {
        if matches!(tensor.values, Values::I32(_)) {
            return TensorType::I32;
        }
        if tensor.shape.len() == 1 {
            return TensorType::F32;
        }
        match self {
            Self::F32 => return TensorType::F32,
            Self::F16 => return TensorType::F16,
            Self::Bf16 => return TensorType::BF16,
            _ => {}
        }
        if name.contains(".experts.") {
            return match self {
                Self::Q8_0 => TensorType::Q8_0,
                Self::Q4K => TensorType::Q4K,
                Self::Q2 if name.ends_with("w2") => TensorType::Q2K,
                Self::Q2 => TensorType::Iq2Xxs,
                _ => TensorType::Mxfp4,
            };
        }
        let dense = ["wq_a", "attn.wq_b", "attn.wkv", "wo_a", "wo_b", "e_proj", "h_proj"];
        let base = name.strip_suffix(".weight").unwrap_or(name);
        let dense = base == "head"
            || name.contains("shared_experts")
            || dense.iter().any(|ending| base.ends_with(ending));
        if dense && self != Self::Mxfp4 { TensorType::Q8_0 } else { TensorType::F16 }
    }
}

/// Makes the weights of `config` and writes one GGUF file.
///
/// # Panics
///
/// When a row is no whole number of the scheme's blocks.
#[must_use]
pub fn write_gguf(config: &Config, scheme: Scheme, mtp: Mtp) -> Vec<u8> {
    write_gguf_from(config, &Weights::new(config), scheme, mtp)
}

/// [`write_gguf`] with weights made before, for several files of one model.
///
/// # Panics
///
/// As [`write_gguf`].
#[must_use]
pub fn write_gguf_from(config: &Config, weights: &Weights, scheme: Scheme, mtp: Mtp) -> Vec<u8> {
    let rounded = (scheme == Scheme::Mxfp4).then(|| fp::round_trip(weights));
    let file = File { config, scheme, mtp };
    file.write(rounded.as_ref().unwrap_or(weights)).expect("a valid layout written to memory")
}

struct File<'a> {
    config: &'a Config,
    scheme: Scheme,
    mtp: Mtp,
}

impl File<'_> {
    fn write(&self, weights: &Weights) -> Result<Vec<u8>, Error> {
        let mut layout = Layout::new(DEFAULT_ALIGNMENT)?;
        layout.metadata("general.architecture", "deepseek4")?;
        layout.metadata("general.name", format!("{}-{}", self.config.name, self.scheme.name()))?;
        if self.mtp != Mtp::Ds4File {
            architecture(&mut layout, self.config)?;
            if self.mtp != Mtp::Without {
                layout.metadata("deepseek4.nextn_predict_layers", 1u32)?;
            }
            tokenizer(&mut layout, self.config)?;
        }
        let tensors = self.stored(weights);
        for (name, ty, tensor) in &tensors {
            let dims: Vec<u64> = tensor.shape.iter().rev().map(|&d| d as u64).collect();
            layout.tensor(name, *ty, &dims)?;
        }
        let mut writer = Writer::new(Vec::with_capacity(layout.file_bytes() as usize), layout)?;
        for (name, ty, tensor) in &tensors {
            let bytes = match &tensor.values {
                Values::I32(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
                Values::F32(x) => quantise(*ty, x),
            };
            writer.write_tensor(name, &bytes)?;
        }
        writer.into_inner()
    }

    /// The tensors of this file in order, under their GGUF names.
    fn stored(&self, weights: &Weights) -> Vec<(String, TensorType, Tensor)> {
        let llama = matches!(self.mtp, Mtp::LlamaFile | Mtp::LlamaAppended);
        let mut stored = Vec::new();
        for (official, tensor) in stack_experts(self.config, weights) {
            let of_mtp = official.starts_with("mtp.");
            let wanted = match self.mtp {
                Mtp::Without => !of_mtp,
                Mtp::Ds4File | Mtp::LlamaFile => of_mtp,
                Mtp::LlamaAppended => true,
            };
            let tensor = match official.as_str() {
                _ if !wanted => continue,
                "mtp.0.h_proj.weight" if llama => continue,
                "mtp.0.e_proj.weight" if llama => {
                    beside(&tensor, weights.get("mtp.0.h_proj.weight"))
                }
                _ => tensor,
            };
            let official = if llama && official == "mtp.0.e_proj.weight" {
                "mtp.0.eh_proj.weight".to_owned()
            } else {
                official
            };
            let ty = self.scheme.tensor_type(&official, &tensor);
            let name = if of_mtp && llama {
                llama_mtp_name(&official, self.config.n_layers(), self.mtp == Mtp::LlamaFile)
            } else {
                gguf_name(&official)
            };
            stored.push((name, ty, tensor));
        }
        stored
    }
}

/// The tensors with each layer's routed experts stacked into one, in the place of the first.
fn stack_experts(config: &Config, weights: &Weights) -> Vec<(String, Tensor)> {
    let mut out: Vec<(String, Tensor)> = Vec::new();
    let mut stacks = std::collections::HashMap::new();
    for (name, tensor) in &weights.0 {
        let Some((layer, expert)) = name.split_once(".ffn.experts.") else {
            out.push((name.clone(), tensor.clone()));
            continue;
        };
        let matrix = expert.split('.').nth(1).expect("experts.E.wN.weight");
        let stack = format!("{layer}.ffn.experts.{matrix}");
        let place = *stacks.entry(stack.clone()).or_insert(out.len());
        if place == out.len() {
            let shape = [&[config.experts], tensor.shape.as_slice()].concat();
            let elements = shape.iter().product();
            let values = Values::F32(Vec::with_capacity(elements));
            out.push((stack, Tensor { shape, values }));
        }
        if let Values::F32(stacked) = &mut out[place].1.values {
            stacked.extend(tensor.f32());
        }
    }
    out
}

/// Two matrices side by side: each row of `a` followed by the same row of `b`.
fn beside(a: &Tensor, b: &Tensor) -> Tensor {
    let rows = a.f32().chunks(a.cols()).zip(b.f32().chunks(b.cols()));
    let values = rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect();
    Tensor { shape: vec![a.shape[0], a.cols() + b.cols()], values: Values::F32(values) }
}

fn architecture(layout: &mut Layout, c: &Config) -> Result<(), Error> {
    let mut set =
        |key: &str, value: gguf::Value| layout.metadata(&format!("deepseek4.{key}"), value);
    let n = |n: usize| gguf::Value::from(u32::try_from(n).expect("a small number"));
    let clamps = || gguf::Value::from(vec![c.swiglu_limit; c.n_layers()]);
    set("vocab_size", n(c.vocab))?;
    set("context_length", n(c.max_positions))?;
    set("embedding_length", n(c.hidden))?;
    set("block_count", n(c.n_layers()))?;
    set("feed_forward_length", n(c.moe_inter))?;
    set("attention.head_count", n(c.heads))?;
    set("attention.head_count_kv", n(1))?;
    set("attention.key_length", n(c.head_dim))?;
    set("attention.value_length", n(c.head_dim))?;
    set("rope.dimension_count", n(c.rope_dim))?;
    set("attention.layer_norm_rms_epsilon", c.rms_eps.into())?;
    set("attention.q_lora_rank", n(c.q_lora))?;
    set("attention.sliding_window", n(c.window))?;
    set("attention.output_group_count", n(c.o_groups))?;
    set("attention.output_lora_rank", n(c.o_lora))?;
    // The official array has one entry more, for the MTP block.
    let ratios: Vec<i32> = c.ratios.iter().map(|&r| r as i32).chain([0]).collect();
    set("attention.compress_ratios", ratios.into())?;
    set("attention.compress_rope_freq_base", c.compress_theta.into())?;
    set("attention.indexer.head_count", n(c.index_heads))?;
    set("attention.indexer.key_length", n(c.index_dim))?;
    set("attention.indexer.top_k", n(c.index_top_k))?;
    set("hyper_connection.count", n(c.hc))?;
    set("hyper_connection.sinkhorn_iterations", n(c.sinkhorn))?;
    set("hyper_connection.epsilon", c.hc_eps.into())?;
    set("hash_layer_count", n(c.hash_layers))?;
    set("expert_count", n(c.experts))?;
    set("expert_used_count", n(c.experts_used))?;
    set("expert_shared_count", n(1))?;
    set("expert_feed_forward_length", n(c.moe_inter))?;
    set("expert_gating_func", n(4))?;
    set("expert_weights_scale", c.route_scale.into())?;
    set("expert_weights_norm", true.into())?;
    set("swiglu_clamp_exp", clamps())?;
    set("swiglu_clamp_shexp", clamps())?;
    set("rope.freq_base", c.rope_theta.into())?;
    set("rope.scaling.type", "yarn".into())?;
    set("rope.scaling.factor", c.yarn_factor.into())?;
    set("rope.scaling.original_context_length", n(c.yarn_original))?;
    set("rope.scaling.yarn_beta_fast", c.yarn_beta_fast.into())?;
    set("rope.scaling.yarn_beta_slow", c.yarn_beta_slow.into())
}

fn tokenizer(layout: &mut Layout, c: &Config) -> Result<(), Error> {
    let toy = ToyTokenizer::new(c.vocab);
    let mut set =
        |key: &str, value: gguf::Value| layout.metadata(&format!("tokenizer.ggml.{key}"), value);
    set("model", "gpt2".into())?;
    set("pre", "joyai-llm".into())?;
    set("tokens", toy.tokens.into())?;
    set("token_type", toy.types.into())?;
    // The `gguf` package leaves empty arrays out.
    if !toy.merges.is_empty() {
        set("merges", toy.merges.into())?;
    }
    set("bos_token_id", 0u32.into())?;
    set("eos_token_id", 1u32.into())?;
    set("padding_token_id", 2u32.into())?;
    set("add_bos_token", false.into())?;
    set("add_eos_token", false.into())
}
