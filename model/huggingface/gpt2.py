"""GPT2LMHeadModel: LayerNorm, learned positions, GELU, biases everywhere, matrices kept as [in, out].

A model of lehr without biases gets biases of zero, which compute the same.
"""

from __future__ import annotations

from model.huggingface.architecture import Architecture

_LINEAR = {
    "transformer.h.{}.attn.c_attn": ["layers.{}.attention.q", "layers.{}.attention.k", "layers.{}.attention.v"],
    "transformer.h.{}.attn.c_proj": ["layers.{}.attention.out"],
    "transformer.h.{}.mlp.c_fc": ["layers.{}.mlp.up"],
    "transformer.h.{}.mlp.c_proj": ["layers.{}.mlp.down"],
}
_NORMS = {
    "transformer.h.{}.ln_1": ["layers.{}.attention_norm"],
    "transformer.h.{}.ln_2": ["layers.{}.mlp_norm"],
    "transformer.ln_f": ["final_norm"],
}

GPT2 = Architecture(
    name="GPT2LMHeadModel",
    model_type="gpt2",
    needs={"norm.name": "layernorm", "mlp.name": "gelu", "position.name": "learned", "qk_norm": False},
    keys={
        "vocab_size": "vocab_size",
        "n_embd": "hidden_size",
        "n_inner": "ffn_size",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "layer_norm_epsilon": "norm.eps",
        "tie_word_embeddings": "tied_embeddings",
    },
    positions="n_positions",
    modules={
        "transformer.wte": ["embedding"],
        "transformer.wpe": ["position"],
        **_NORMS,
        **_LINEAR,
        "lm_head": ["head"],
    },
    fixed={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    if_null={"n_inner": ("n_embd", 4)},
    imported={"bias": True},
    transposed=frozenset(_LINEAR),
    grouped_queries=False,
    always_bias=frozenset({*_LINEAR, *_NORMS}),
    prefix="transformer.",
    harmless=frozenset({"n_ctx"}),  # of older files: the same as n_positions
    not_weights=("*.attn.bias", "*.attn.masked_bias"),
)
