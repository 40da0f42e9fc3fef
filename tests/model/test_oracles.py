"""Against Hugging Face's Llama and GPT-2 with the same weights: logits and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.transformer import Transformer

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, VOCABULARY, ROWS, LENGTH = 3, 64, 4, 2, 96, 128, 2, 24
LLAMA = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def our_model(**style: Any) -> Transformer:
    plain = {"num_layers": LAYERS, "hidden_size": HIDDEN, "num_heads": HEADS, "ffn_size": FFN, "vocab_size": VOCABULARY}
    config = ModelConfig.model_validate({**plain, **style})
    model = Transformer(config, seq_length=LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():  # gains and biases that differ, so that a wrong one shows
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def logits_and_gradients(model: Transformer, tokens_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    positions_BT = torch.arange(LENGTH).expand(ROWS, LENGTH)
    hidden_TBD = model(tokens_BT[:, :-1], None, positions_BT)
    targets_BT = tokens_BT[:, 1:]
    weights_BT = torch.full(targets_BT.shape, 1 / targets_BT.numel())
    model.loss(hidden_TBD, targets_BT, weights_BT).total.backward()
    logits_BTV = model.logits(hidden_TBD).transpose(0, 1).detach()
    return logits_BTV, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def their_gradients(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    logits_BTV: Tensor = model(tokens_BT[:, :-1]).logits
    nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    return logits_BTV.detach()


def assert_close(ours: Tensor, theirs: Tensor, name: str) -> None:
    difference = (ours - theirs).norm() / theirs.norm()
    assert difference < 1e-5, f"{name} differs by {difference:.2e} of its norm"


@pytest.fixture
def tokens_BT() -> Tensor:
    return torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(7))


def test_llama(tokens_BT: Tensor) -> None:
    ours = our_model(num_kv_heads=KV_HEADS)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=LAYERS,
            hidden_size=HIDDEN,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            intermediate_size=FFN,
            vocab_size=VOCABULARY,
            rms_norm_eps=ours.config.norm.eps,
            rope_theta=ours.config.position.theta,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )

    def their_name(name: str) -> str:
        parts = name.removesuffix(".weight").split(".")
        if parts[0] == "layers":
            return f"model.layers.{parts[1]}.{LLAMA['.'.join(parts[2:])]}.weight"
        return f"{LLAMA[parts[0]]}.weight"

    named = dict(theirs.named_parameters())
    assert {their_name(name) for name, _ in ours.named_parameters()} == set(named)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            named[their_name(name)].copy_(parameter)
    logits_BTV, gradients = logits_and_gradients(ours, tokens_BT)
    assert_close(logits_BTV, their_gradients(theirs, tokens_BT), "logits")
    for name, gradient in gradients.items():
        wanted = named[their_name(name)].grad
        assert wanted is not None
        assert_close(gradient, wanted, name)


def test_gpt2(tokens_BT: Tensor) -> None:
    ours = our_model(norm="layernorm", mlp="gelu", position="learned", bias=True, tied_embeddings=True)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=LAYERS,
            n_embd=HIDDEN,
            n_head=HEADS,
            n_inner=FFN,
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            layer_norm_epsilon=ours.config.norm.eps,
            attn_implementation="eager",
        )
    ).eval()  # no dropout
    body = theirs.transformer
    pairs: dict[str, Tensor] = {
        "embedding.weight": body.wte.weight,
        "position.weight": body.wpe.weight,
        "final_norm.weight": body.ln_f.weight,
        "final_norm.bias": body.ln_f.bias,
    }
    for number, block in enumerate(body.h):
        prefix = f"layers.{number}"
        for ours_name, module in (("attention_norm", block.ln_1), ("mlp_norm", block.ln_2)):
            pairs |= {f"{prefix}.{ours_name}.weight": module.weight, f"{prefix}.{ours_name}.bias": module.bias}
        for ours_name, module in (
            ("attention.out", block.attn.c_proj),
            ("mlp.up", block.mlp.c_fc),
            ("mlp.down", block.mlp.c_proj),
        ):
            pairs |= {f"{prefix}.{ours_name}.weight": module.weight, f"{prefix}.{ours_name}.bias": module.bias}
    transposed = ("attention.out.weight", "mlp.up.weight", "mlp.down.weight")
    mine = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in pairs.items():
            parameter.copy_(mine[name].T if name.endswith(transposed) else mine[name])
        for number, block in enumerate(body.h):
            qkv = [mine[f"layers.{number}.attention.{each}.weight"] for each in "qkv"]
            block.attn.c_attn.weight.copy_(torch.cat(qkv).T)
            block.attn.c_attn.bias.copy_(torch.cat([mine[f"layers.{number}.attention.{each}.bias"] for each in "qkv"]))
    logits_BTV, gradients = logits_and_gradients(ours, tokens_BT)
    assert_close(logits_BTV, their_gradients(theirs, tokens_BT), "logits")
    for name, parameter in pairs.items():
        assert parameter.grad is not None
        wanted = parameter.grad.T if name.endswith(transposed) else parameter.grad
        assert_close(gradients[name], wanted, name)
    for number, block in enumerate(body.h):
        assert block.attn.c_attn.weight.grad is not None
        ours_qkv = torch.cat([gradients[f"layers.{number}.attention.{each}.weight"] for each in "qkv"])
        assert_close(ours_qkv, block.attn.c_attn.weight.grad.T, f"layers.{number}.attention.qkv")
