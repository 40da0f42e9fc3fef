"""Every parameter carries a declaration, and a model with one that does not is refused by name."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from model.attention import KERNELS
from model.config import ModelConfig
from model.layers import Layers, TorchLayers
from model.mlps import MLPConfig
from model.parameter import ParamSpec, allocate, applied_to_shards, declare, spec_of, specs_of
from model.recompute import RecomputeContext, saving
from model.transformer import Transformer, without_values
from optim.groups import ADAMW_FOR_NON_MATRICES, DECAY_MATRICES, rule_of

SMALL: dict[str, Any] = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "ffn_size": 24, "vocab_size": 32}
GPT2: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True}
EVERYTHING: dict[str, Any] = {**GPT2, "qk_norm": True, "norm_scaling": "layernorm_scaling"}
SCALE = 2**-0.5  # of the second layer
WANTED = {
    "embedding.weight": ParamSpec(init="normal", shard_dim=0),
    "position.weight": ParamSpec(init="normal", gradient="replicated"),
    "layers.1.attention_norm.weight": ParamSpec(init=1.0, scale=SCALE),
    "layers.1.attention_norm.bias": ParamSpec(init=0.0, scale=SCALE),
    "layers.1.attention.q.weight": ParamSpec(init="normal", shard_dim=0),
    "layers.1.attention.q.bias": ParamSpec(init=0.0, shard_dim=0),
    "layers.1.attention.k.weight": ParamSpec(init="normal", shard_dim=0),
    "layers.1.attention.k.bias": ParamSpec(init=0.0, shard_dim=0),
    "layers.1.attention.v.weight": ParamSpec(init="normal", shard_dim=0),
    "layers.1.attention.v.bias": ParamSpec(init=0.0, shard_dim=0),
    "layers.1.attention.out.weight": ParamSpec(init="residual_output", shard_dim=1),
    "layers.1.attention.out.bias": ParamSpec(init=0.0),
    "layers.1.attention.q_norm.weight": ParamSpec(init=1.0, gradient="partial"),
    "layers.1.attention.k_norm.weight": ParamSpec(init=1.0, gradient="partial"),
    "layers.1.mlp_norm.weight": ParamSpec(init=1.0, scale=SCALE),
    "layers.1.mlp_norm.bias": ParamSpec(init=0.0, scale=SCALE),
    "layers.1.mlp.up.weight": ParamSpec(init="normal", shard_dim=0),
    "layers.1.mlp.up.bias": ParamSpec(init=0.0, shard_dim=0),
    "layers.1.mlp.down.weight": ParamSpec(init="residual_output", shard_dim=1),
    "layers.1.mlp.down.bias": ParamSpec(init=0.0),
    "final_norm.weight": ParamSpec(init=1.0),
    "final_norm.bias": ParamSpec(init=0.0),
    "head.weight": ParamSpec(init="normal", shard_dim=0),
}


class BareMLP(nn.Module):
    """A vector that nobody declares."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x_tBD: Tensor) -> Tensor:
        return x_tBD * self.gain


class BareConfig(MLPConfig):
    name: Literal["bare"] = "bare"

    def build(
        self,
        hidden_size: int,
        ffn_size: int,
        *,
        bias: bool,
        layers: Layers,
        save_or_recompute: RecomputeContext = saving,
    ) -> nn.Module:
        return BareMLP(hidden_size)


def test_what_each_parameter_declares() -> None:
    specs = specs_of(without_values(ModelConfig.model_validate({**SMALL, **EVERYTHING}), seq_length=8))
    assert {name: spec for name, spec in specs.items() if not name.startswith("layers.0.")} == WANTED


def test_a_model_with_an_undeclared_parameter_is_refused_by_name() -> None:
    config = ModelConfig.model_validate({**SMALL, "mlp": BareConfig()})
    with pytest.raises(AssertionError, match=r"the parameter layers\.0\.mlp\.gain has no declaration"):
        Transformer(config, seq_length=8, layers=TorchLayers(), attend=KERNELS["sdpa"])


def test_the_declaration_stays_when_values_move() -> None:
    module = nn.Module()
    module.gain = declare(torch.ones(3), ParamSpec(init=1.0, scale=0.5))
    module.to(torch.bfloat16).to("cpu")
    assert spec_of(module.gain, "gain") == ParamSpec(init=1.0, scale=0.5)
    assert spec_of(applied_to_shards(module).gain, "gain") == ParamSpec(init=1.0, scale=0.5, gradient="partial")


@pytest.mark.parametrize("style", [{}, {**EVERYTHING, "tied_embeddings": True}])
def test_default_tables_decay_no_vector_and_give_matrices_their_own_rule(style: dict[str, Any]) -> None:
    """`optim.table` goes by names, as users write it: a new module's vectors are to end in norm.weight or .bias."""
    model = without_values(ModelConfig.model_validate({**SMALL, **style}), seq_length=8)
    for name, parameter in model.named_parameters():
        vector = parameter.ndim == 1
        assert (rule_of(DECAY_MATRICES, name).weight_decay == 0) == vector, name
        assert not vector or rule_of(ADAMW_FOR_NON_MATRICES, name).method == "adamw", name


def test_a_parameter_without_memory_is_given_it_and_stays_the_module_s_own() -> None:
    model = without_values(ModelConfig.model_validate(SMALL), seq_length=8)
    before = dict(model.named_parameters())
    specs = specs_of(model)
    flat = torch.arange(1.0, 1 + sum(parameter.numel() for parameter in model.parameters()))
    start = 0
    for parameter in model.parameters():
        memory = flat[start : start + parameter.numel()]
        allocate(parameter, memory.view(parameter.shape))
        start += parameter.numel()
        assert parameter.data_ptr() == memory.data_ptr()
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert specs_of(model) == specs
    hidden = model(torch.zeros(1, 4, dtype=torch.int64), None, torch.arange(4)[None])
    hidden.sum().backward()
    assert model.get_parameter("embedding.weight").grad is not None
