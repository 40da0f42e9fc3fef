"""LlamaForCausalLM: RMSNorm, RoPE, SwiGLU, grouped queries; biases everywhere or nowhere."""

from __future__ import annotations

from model.huggingface.architecture import Architecture

MODULES = {
    "model.embed_tokens": ["embedding"],
    "model.layers.{}.input_layernorm": ["layers.{}.attention_norm"],
    "model.layers.{}.self_attn.q_proj": ["layers.{}.attention.q"],
    "model.layers.{}.self_attn.k_proj": ["layers.{}.attention.k"],
    "model.layers.{}.self_attn.v_proj": ["layers.{}.attention.v"],
    "model.layers.{}.self_attn.o_proj": ["layers.{}.attention.out"],
    "model.layers.{}.post_attention_layernorm": ["layers.{}.mlp_norm"],
    "model.layers.{}.mlp.gate_proj": ["layers.{}.mlp.gate"],
    "model.layers.{}.mlp.up_proj": ["layers.{}.mlp.up"],
    "model.layers.{}.mlp.down_proj": ["layers.{}.mlp.down"],
    "model.norm": ["final_norm"],
    "lm_head": ["head"],
}
KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "rms_norm_eps": "norm.eps",
    "rope_theta": "position.theta",
    "tie_word_embeddings": "tied_embeddings",
}
STYLE = {"norm.name": "rmsnorm", "mlp.name": "swiglu", "position.name": "rope"}

LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_type="llama",
    needs={**STYLE, "qk_norm": False},
    keys={**KEYS, "attention_bias": "bias", "mlp_bias": "bias"},
    positions="max_position_embeddings",
    modules=MODULES,
    fixed={"hidden_act": "silu", "rope_scaling": None},
    defaults={
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
    if_null={"num_key_value_heads": ("num_attention_heads", 1)},
    neutral={"sliding_window": None, "use_sliding_window": False},
    not_weights=("*.rotary_emb.inv_freq",),
)
