"""GGUF names, storage types and metadata of keid-tiny."""

import gguf

from config import Config

ROOT = {"embed.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight",
        "hc_head_fn": "output_hc_fn.weight", "hc_head_base": "output_hc_base.weight", "hc_head_scale": "output_hc_scale.weight"}
BLOCK = {
    "attn_norm.weight": "attn_norm.weight", "ffn_norm.weight": "ffn_norm.weight", "attn.attn_sink": "attn_sinks.weight",
    "attn.wq_a.weight": "attn_q_a.weight", "attn.q_norm.weight": "attn_q_a_norm.weight", "attn.wq_b.weight": "attn_q_b.weight",
    "attn.wkv.weight": "attn_kv.weight", "attn.kv_norm.weight": "attn_kv_a_norm.weight",
    "attn.wo_a.weight": "attn_output_a.weight", "attn.wo_b.weight": "attn_output_b.weight",
    "attn.compressor.ape": "attn_compressor_ape.weight", "attn.compressor.wkv.weight": "attn_compressor_kv.weight",
    "attn.compressor.wgate.weight": "attn_compressor_gate.weight", "attn.compressor.norm.weight": "attn_compressor_norm.weight",
    "attn.indexer.wq_b.weight": "indexer.attn_q_b.weight", "attn.indexer.weights_proj.weight": "indexer.proj.weight",
    "attn.indexer.compressor.ape": "indexer_compressor_ape.weight",
    "attn.indexer.compressor.wkv.weight": "indexer_compressor_kv.weight",
    "attn.indexer.compressor.wgate.weight": "indexer_compressor_gate.weight",
    "attn.indexer.compressor.norm.weight": "indexer_compressor_norm.weight",
    "ffn.gate.weight": "ffn_gate_inp.weight", "ffn.gate.bias": "exp_probs_b.bias", "ffn.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "ffn.experts.w1": "ffn_gate_exps.weight", "ffn.experts.w3": "ffn_up_exps.weight", "ffn.experts.w2": "ffn_down_exps.weight",
    "ffn.shared_experts.w1.weight": "ffn_gate_shexp.weight", "ffn.shared_experts.w3.weight": "ffn_up_shexp.weight",
    "ffn.shared_experts.w2.weight": "ffn_down_shexp.weight",
    **{f"hc_{site}_{part}": f"hc_{site}_{part}.weight" for site in ("attn", "ffn", "head") for part in ("fn", "base", "scale")},
    **{name: name for name in ("e_proj.weight", "h_proj.weight", "enorm.weight", "hnorm.weight", "norm.weight")},
}
HALF = ("embed.weight", "_fn", "ffn.gate.weight", "compressor.wkv.weight", "compressor.wgate.weight", "compressor.ape",
        "indexer.weights_proj.weight")

TEMPLATE = (
    "{%- if thinking and reasoning_effort == 'max' -%}Reasoning Effort: Beyond maximum — exhaustive, relentless, and "
    "uncompromising.{%- elif thinking and reasoning_effort == 'high' -%}Reasoning Effort: Absolute maximum with no "
    "shortcuts permitted.{%- endif -%}{#- Prompt format of DeepSeek-V4 0731; engines render it in code. -#}"
    "{%- for message in messages -%}{%- if message.role == 'user' -%}<｜User｜>{{ message.content }}<｜Assistant｜>"
    "{%- elif message.role == 'assistant' -%}</think>{{ message.content }}<｜end▁of▁sentence｜>{%- else -%}"
    "{{ message.content }}{%- endif -%}{%- endfor -%}{%- if thinking -%}<think>{%- else -%}</think>{%- endif -%}"
)


def gguf_name(official: str) -> str:
    """`layers.N.*` -> `blk.N.*`; the MTP block keeps its official prefix, as ds4 names it: `mtp.0.*`."""
    if official in ROOT:
        return ROOT[official]
    group, index, rest = official.split(".", 2)
    return (f"blk.{index}." if group == "layers" else f"mtp.{index}.") + BLOCK[rest]


def storage(official: str, dimensions: int, experts: dict[str, str]) -> str:
    """The ggml type of a tensor; `experts` maps w1, w2, w3 to a type."""
    if official.endswith("tid2eid"):
        return "I32"
    if dimensions == 1:
        return "F32"
    if ".experts." in official:
        return experts[official.rsplit(".", 1)[1]]
    return "F16" if official.endswith(HALF) else "Q8_0"


def write_metadata(w: gguf.GGUFWriter, c: Config) -> None:
    """The `deepseek4.*` keys that llama.cpp and ds4 read."""
    a = "deepseek4."
    whole = {
        "vocab_size": c.vocab, "context_length": c.context, "embedding_length": c.hidden, "block_count": c.layers,
        "feed_forward_length": c.expert_dim, "attention.head_count": c.heads, "attention.head_count_kv": 1,
        "attention.key_length": c.head_dim, "attention.value_length": c.head_dim, "attention.q_lora_rank": c.q_lora,
        "attention.sliding_window": c.window, "attention.output_group_count": c.o_groups,
        "attention.output_lora_rank": c.o_lora, "attention.indexer.head_count": c.index_heads,
        "attention.indexer.key_length": c.index_dim, "attention.indexer.top_k": c.index_top_k,
        "rope.dimension_count": c.rope_dim, "rope.scaling.original_context_length": c.yarn_original,
        "hyper_connection.count": c.streams, "hyper_connection.sinkhorn_iterations": c.sinkhorn,
        "hash_layer_count": c.hash_layers, "expert_count": c.experts, "expert_used_count": c.experts_per_token,
        "expert_shared_count": 1, "expert_feed_forward_length": c.expert_dim, "expert_gating_func": 4,
        "nextn_predict_layers": 1,
    }
    real = {
        "attention.layer_norm_rms_epsilon": c.rms_eps, "attention.compress_rope_freq_base": c.compress_theta,
        "rope.freq_base": c.rope_theta, "rope.scaling.factor": c.yarn_factor,
        "rope.scaling.yarn_beta_fast": c.yarn_beta_fast, "rope.scaling.yarn_beta_slow": c.yarn_beta_slow,
        "hyper_connection.epsilon": c.hc_eps, "expert_weights_scale": c.route_scale,
    }
    for key, value in whole.items():
        w.add_uint32(a + key, value)
    for key, value in real.items():
        w.add_float32(a + key, value)
    w.add_string(a + "rope.scaling.type", "yarn")
    w.add_bool(a + "expert_weights_norm", True)
    w.add_array(a + "attention.compress_ratios", [*c.ratios, 0])
    for key in ("swiglu_clamp_exp", "swiglu_clamp_shexp"):
        w.add_array(a + key, [c.swiglu_limit] * c.layers)
