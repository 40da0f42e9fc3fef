"""Qwen3ForCausalLM: as Llama, with an RMSNorm of each head's queries and keys, and no biases."""

from __future__ import annotations

from model.huggingface.architecture import Architecture
from model.huggingface.llama import KEYS, LLAMA, MODULES, STYLE

QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    model_type="qwen3",
    needs={**STYLE, "qk_norm": True, "bias": False},
    keys=KEYS,
    positions="max_position_embeddings",
    modules={
        **MODULES,
        "model.layers.{}.self_attn.q_norm": ["layers.{}.attention.q_norm"],
        "model.layers.{}.self_attn.k_norm": ["layers.{}.attention.k_norm"],
    },
    fixed={**LLAMA.fixed, "attention_bias": False, "use_sliding_window": False},
    # The defaults of head_dim and num_key_value_heads do not depend on the other sizes.
    defaults={
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "head_dim": 128,
        "num_key_value_heads": 32,
    },
    harmless=frozenset({"max_window_layers", "sliding_window"}),  # they have no effect without use_sliding_window
    if_null=LLAMA.if_null,
    not_weights=LLAMA.not_weights,
)
