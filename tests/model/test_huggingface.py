"""Architectures of transformers: every model they hold computes the same there; what none holds is refused by key."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model.attention import KERNELS
from model.config import ModelConfig
from model.fold import fold_scales
from model.huggingface import ARCHITECTURES, Architecture, architecture_of
from model.init import initialise
from model.layers import TorchLayers
from model.parameter import specs_of
from model.transformer import Transformer, without_values
from settings import UserError

LENGTH, VOCABULARY = 24, 128
SMALL = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "ffn_size": 96, "vocab_size": VOCABULARY}
GPT2: dict[str, Any] = {"norm": {"name": "layernorm", "eps": 3e-5}, "mlp": "gelu", "position": "learned"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "grouped queries, theta, eps": (
        "LlamaForCausalLM",
        {"num_kv_heads": 2, "position": {"name": "rope", "theta": 300.0}, "norm": {"name": "rmsnorm", "eps": 1e-3}},
    ),
    "one key-value head, tied": ("LlamaForCausalLM", {"num_kv_heads": 1, "tied_embeddings": True}),
    "biases": ("LlamaForCausalLM", {"bias": True}),
    "llama, scaled norms": ("LlamaForCausalLM", {"norm_scaling": "layernorm_scaling"}),
    "qk-norm": ("Qwen3ForCausalLM", {"qk_norm": True, "num_kv_heads": 2}),
    "qk-norm, tied, scaled norms": (
        "Qwen3ForCausalLM",
        {"qk_norm": True, "tied_embeddings": True, "norm_scaling": "layernorm_scaling"},
    ),
    "gpt2": ("GPT2LMHeadModel", {**GPT2, "bias": True, "tied_embeddings": True}),
    "gpt2 untied, scaled norms": ("GPT2LMHeadModel", {**GPT2, "bias": True, "norm_scaling": "layernorm_scaling"}),
    "gpt2 without biases": ("GPT2LMHeadModel", {**GPT2, "tied_embeddings": True}),
}


def made(style: dict[str, Any]) -> Transformer:
    config = ModelConfig.model_validate({**SMALL, **style})
    model = Transformer(config, seq_length=LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():  # gains and biases that differ, so that a wrong one shows
        for parameter in model.parameters():
            parameter.add_((0.1 if parameter.ndim == 1 else 0.05) * torch.randn(parameter.shape, generator=generator))
    return model


def weights_of(model: Transformer) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def shapes_of(model: Transformer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", MODELS)
def test_it_computes_the_same(kind: str) -> None:
    name, style = MODELS[kind]
    ours = made(style)
    architecture = architecture_of(ours.config, ARCHITECTURES)
    assert architecture.name == name
    plain = architecture.config_json(ours.config, seq_length=LENGTH)
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**plain, bos_token_id=0, eos_token_id=0), attn_implementation="eager"
    ).eval()
    assert type(theirs).__name__ == name
    folded = fold_scales(weights_of(ours), specs_of(ours))
    given = {entry.name: entry.to_huggingface(folded) for entry in architecture.entries(shapes_of(ours))}
    missing, unexpected = theirs.load_state_dict(given, strict=False)
    assert unexpected == []
    assert set(missing) <= ({"lm_head.weight"} if ours.config.tied_embeddings else set())
    tokens_BT = torch.randint(0, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        positions_BT = torch.arange(LENGTH).expand(2, LENGTH)
        ours_BTV = ours.logits(ours(tokens_BT, None, positions_BT)).transpose(0, 1)
        theirs_BTV = theirs(tokens_BT).logits
    assert (ours_BTV - theirs_BTV).abs().max() < 1e-5 * theirs_BTV.abs().max()


@pytest.mark.parametrize("kind", MODELS)
def test_there_and_back(kind: str) -> None:
    """Config and weights: what comes back is the same model, and to the bit the same tensors."""
    _, style = MODELS[kind]
    ours = made(style)
    architecture = architecture_of(ours.config, ARCHITECTURES)
    plain = architecture.config_json(ours.config, seq_length=LENGTH)
    back = ModelConfig.model_validate(architecture.model_section(plain, source="config.json"))
    assert architecture.config_json(back, seq_length=LENGTH) == plain
    same = ours.config.model_copy(
        update={"norm_scaling": "none", "num_kv_heads": back.num_kv_heads, "bias": ours.config.bias or back.bias}
    )
    assert back == same
    folded = fold_scales(weights_of(ours), specs_of(ours))
    again = Transformer(back, seq_length=LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    there = {entry.name: entry.to_huggingface(folded) for entry in architecture.entries(shapes_of(ours))}
    returned = {
        name: tensor
        for entry in architecture.entries(shapes_of(again))
        for name, tensor in entry.to_lehr(there[entry.name])
    }
    assert set(returned) == set(shapes_of(again))
    for name, tensor in returned.items():
        wanted = folded.get(name, torch.zeros(()))  # biases that were not there are zero
        assert torch.equal(tensor, wanted.expand_as(tensor)), name


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.name)
def test_what_transformers_itself_writes_is_read(architecture: Architecture) -> None:
    """The config.json of a model that transformers made, with its own defaults and its own spelling of RoPE."""
    sizes = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    extra = {"head_dim": 16, "num_key_value_heads": 4} if architecture.name == "Qwen3ForCausalLM" else {}
    theirs = AutoConfig.for_model(architecture.model_type, **sizes, **extra, architectures=[architecture.name])
    model = ModelConfig.model_validate(architecture.model_section(theirs.to_dict(), source="config.json"))
    assert (model.vocab_size, model.hidden_size, model.num_layers, model.num_heads) == (128, 64, 2, 4)
    assert not architecture.obstacles(model)
    wanted = {name: tuple(p.shape) for name, p in AutoModelForCausalLM.from_config(theirs).named_parameters()}
    assert {
        entry.name: entry.shape for entry in architecture.entries(shapes_of(without_values(model, seq_length=1024)))
    } == wanted


NOWHERE: dict[str, tuple[dict[str, Any], str]] = {
    "gelu with rmsnorm": ({"mlp": "gelu"}, 'LlamaForCausalLM needs model.mlp = "swiglu", not "gelu"'),
    "no position": ({"position": "none"}, "model.position"),
    "qk-norm with biases": ({"qk_norm": True, "bias": True}, "Qwen3ForCausalLM needs model.bias = false, not true"),
    "gpt2 with grouped queries": ({**GPT2, "num_kv_heads": 2}, "GPT2LMHeadModel needs model.num_kv_heads = 4"),
    "gpt2 with qk-norm": ({**GPT2, "qk_norm": True}, "GPT2LMHeadModel needs model.qk_norm = false, not true"),
}


@pytest.mark.parametrize("kind", NOWHERE)
def test_what_no_architecture_has_is_refused_by_key(kind: str) -> None:
    style, message = NOWHERE[kind]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        architecture_of(ModelConfig.model_validate({**SMALL, **style}), ARCHITECTURES)
    for architecture in ARCHITECTURES:
        assert architecture.name in str(caught.value)


LLAMA_JSON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
NOT_IN_LEHR: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "gelu"}, "hidden_act"),
    "heads of their own size": ({"head_dim": 32}, "head_dim = 32"),
    "scaled rope": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
    "scaled rope, older": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 'rope_scaling.type = "linear"'),
    "scaled rope, newer": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters.rope_type"),
    "scaled rope, mixed": ({"rope_parameters": {"type": "linear", "factor": 2.0}}, "rope_parameters.type"),
    "a factor alone": ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "rope_parameters.factor = 2.0"),
    "a factor of no effect on its own": ({"rope_parameters": {"attention_factor": 2.0}}, "attention_factor"),
    "two values of theta": (
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
        "rope_parameters.rope_theta = 500000.0 and rope_theta = 10000.0 must be the same",
    ),
    "rope by layers": ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters.full_attention"),
    "rope that is no mapping": ({"rope_scaling": 2.0}, "rope_scaling = 2.0"),
    "partial rope": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "partial rope, newer": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
    "rope over neighbours": ({"rope_interleaved": True}, "rope_interleaved = true"),
    "sliding window": ({"sliding_window": 4096}, "sliding_window = 4096"),
    "capped logits": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 is unknown to lehr"),
    "capped scores": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "scaled scores": ({"attention_multiplier": 0.1}, "attention_multiplier"),
    "scaled embeddings": ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
    "scaled logits": ({"logits_scaling": 8.0}, "logits_scaling"),
    "experts": ({"num_local_experts": 8}, "num_local_experts"),
    "pruned heads": ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    "another type": ({"model_type": "mistral"}, 'model_type = "mistral", and lehr has only "llama"'),
    "some biases": ({"attention_bias": True}, "mlp_bias = false and attention_bias = true must be the same"),
    "a window": ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    "no size": ({"hidden_size": None}, "hidden_size is missing"),
}


@pytest.mark.parametrize("kind", NOT_IN_LEHR)
def test_what_lehr_does_not_have_is_refused_by_its_key(kind: str) -> None:
    changed, message = NOT_IN_LEHR[kind]
    llama = next(each for each in ARCHITECTURES if each.name == "LlamaForCausalLM")
    llama.model_section(LLAMA_JSON, source="config.json")
    with pytest.raises(UserError, match=re.escape(message)):
        llama.model_section({**LLAMA_JSON, **changed}, source="config.json")


def test_a_key_of_another_architecture_is_refused() -> None:
    gpt2 = next(each for each in ARCHITECTURES if each.name == "GPT2LMHeadModel")
    plain = {"vocab_size": 128, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_ctx": 24, "n_positions": 24}
    gpt2.model_section(plain, source="config.json")
    for key, value in {"rope_scaling": {"type": "linear"}, "num_key_value_heads": 2, "hidden_act": "silu"}.items():
        with pytest.raises(UserError, match=f"{key} = .* is unknown to lehr"):
            gpt2.model_section({**plain, key: value}, source="config.json")


PLAIN_ROPE: dict[str, dict[str, Any]] = {
    "absent": {},
    "older": {"rope_theta": 300.0, "rope_scaling": None},
    "newer": {"rope_parameters": {"rope_theta": 300.0, "rope_type": "default"}},
    "newer, without a type": {"rope_parameters": {"rope_theta": 300.0}},
    "newer, without theta": {"rope_parameters": {"rope_type": "default"}},
    "theta outside": {"rope_parameters": {"rope_type": "default"}, "rope_theta": 300.0},
    "a scaling of no effect": {"rope_scaling": {"type": "default"}, "rope_theta": 300.0},
    "theta in the scaling": {"rope_scaling": {"rope_type": "default", "rope_theta": 300.0, "factor": None}},
    "keys of no effect": {"partial_rotary_factor": 1.0, "use_cache": True, "logits_scaling": None, "pretraining_tp": 2},
}


@pytest.mark.parametrize("kind", PLAIN_ROPE)
def test_every_spelling_of_plain_rope_has_the_theta_of_transformers(kind: str) -> None:
    llama = next(each for each in ARCHITECTURES if each.name == "LlamaForCausalLM")
    section = llama.model_section({**LLAMA_JSON, **PLAIN_ROPE[kind]}, source="config.json")
    theirs = LlamaConfig(**LLAMA_JSON, **PLAIN_ROPE[kind])
    frequencies = LlamaRotaryEmbedding(theirs).inv_freq
    theta = section["position"]["theta"]
    assert torch.allclose(frequencies, theta ** (-torch.arange(0, 16, 2) / 16), rtol=1e-6)
