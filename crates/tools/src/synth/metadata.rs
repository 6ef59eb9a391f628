//! The metadata of a synthetic file: every key that this engine, llama.cpp and ds4 read
//! (spec: gguf layout §2).

use gguf::{Array, Layout, Value};
use model::{Config, Preset};

use super::Error;
use super::tokenizer::{SMALLEST, vocabulary};

/// Declares the metadata of a preset, cut to the layers of `c`.
pub(super) fn declare(layout: &mut Layout, c: &Config, preset: Preset) -> Result<(), Error> {
    general(layout, c)?;
    model(layout, c)?;
    rope(layout, c, preset)?;
    tokenizer(layout, c)
}

fn general(layout: &mut Layout, c: &Config) -> Result<(), Error> {
    layout.metadata("general.architecture", "deepseek4")?;
    layout.metadata("general.type", "model")?;
    layout.metadata("general.name", c.name.as_str())?;
    layout.metadata("general.description", "random weights; for measuring, not for reading")?;
    layout.metadata("general.quantization_version", 2u32)?;
    Ok(())
}

fn model(layout: &mut Layout, c: &Config) -> Result<(), Error> {
    let counts = [
        ("vocab_size", c.n_vocab),
        ("context_length", c.context_max),
        ("embedding_length", c.hidden),
        ("block_count", c.layers.len()),
        ("attention.head_count", c.n_heads),
        ("attention.head_count_kv", 1),
        ("attention.key_length", c.head_dim),
        ("attention.value_length", c.head_dim),
        ("attention.q_lora_rank", c.q_lora_rank),
        ("attention.sliding_window", c.window),
        ("attention.output_group_count", c.n_out_groups),
        ("attention.output_lora_rank", c.out_lora_rank),
        ("attention.indexer.head_count", c.indexer.n_heads),
        ("attention.indexer.key_length", c.indexer.head_dim),
        ("attention.indexer.top_k", c.indexer.top_k),
        ("hyper_connection.count", c.hc.n_streams),
        ("hyper_connection.sinkhorn_iterations", c.hc.sinkhorn_iterations),
        ("hash_layer_count", c.n_hash_layers),
        ("expert_count", c.n_experts),
        ("expert_used_count", c.n_experts_used),
        ("expert_shared_count", 1),
        ("expert_feed_forward_length", c.expert_inner),
        // sqrt(softplus), by llama.cpp's number.
        ("expert_gating_func", 4),
    ];
    for (key, value) in counts {
        layout.metadata(&format!("deepseek4.{key}"), count(value)?)?;
    }
    let numbers = [
        ("attention.layer_norm_rms_epsilon", c.rms_eps),
        ("hyper_connection.epsilon", c.hc.eps),
        ("expert_weights_scale", c.route_scale),
    ];
    for (key, value) in numbers {
        layout.metadata(&format!("deepseek4.{key}"), value)?;
    }
    layout.metadata("deepseek4.expert_weights_norm", true)?;
    let ratios = c.layers.iter().map(|kind| kind.ratio().unwrap_or_default());
    let ratios = ratios.map(count).collect::<Result<Vec<u32>, _>>()?;
    layout.metadata("deepseek4.attention.compress_ratios", array(Array::U32(ratios)))?;
    let clamps = c.expert_clamp.clone();
    layout.metadata("deepseek4.swiglu_clamp_exp", array(Array::F32(clamps)))?;
    let clamps = c.shared_clamp.clone();
    layout.metadata("deepseek4.swiglu_clamp_shexp", array(Array::F32(clamps)))?;
    Ok(())
}

fn rope(layout: &mut Layout, c: &Config, preset: Preset) -> Result<(), Error> {
    layout.metadata("deepseek4.rope.dimension_count", count(c.rope_dim)?)?;
    layout.metadata("deepseek4.rope.freq_base", 10_000f32)?;
    layout.metadata("deepseek4.attention.compress_rope_freq_base", 160_000f32)?;
    layout.metadata("deepseek4.rope.scaling.type", "yarn")?;
    layout.metadata("deepseek4.rope.scaling.factor", 16f32)?;
    let original: u32 = if preset == Preset::Tiny { 1024 } else { 65_536 };
    layout.metadata("deepseek4.rope.scaling.original_context_length", original)?;
    layout.metadata("deepseek4.rope.scaling.yarn_beta_fast", 32f32)?;
    layout.metadata("deepseek4.rope.scaling.yarn_beta_slow", 1f32)?;
    Ok(())
}

fn tokenizer(layout: &mut Layout, c: &Config) -> Result<(), Error> {
    let small = || Error::Vocabulary { found: c.n_vocab, least: SMALLEST };
    let vocabulary = vocabulary(c.n_vocab).ok_or_else(small)?;
    layout.metadata("tokenizer.ggml.model", "gpt2")?;
    layout.metadata("tokenizer.ggml.pre", "joyai-llm")?;
    layout.metadata("tokenizer.ggml.tokens", array(Array::Str(vocabulary.tokens)))?;
    layout.metadata("tokenizer.ggml.token_type", array(Array::I32(vocabulary.kinds)))?;
    layout.metadata("tokenizer.ggml.merges", array(Array::Str(vocabulary.merges)))?;
    layout.metadata("tokenizer.ggml.bos_token_id", 0u32)?;
    layout.metadata("tokenizer.ggml.eos_token_id", 1u32)?;
    layout.metadata("tokenizer.ggml.padding_token_id", 2u32)?;
    layout.metadata("tokenizer.ggml.add_bos_token", true)?;
    Ok(())
}

fn array(array: Array) -> Value {
    Value::Array(array)
}

fn count(value: usize) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::Count { found: value })
}
