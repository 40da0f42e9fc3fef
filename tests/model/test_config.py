"""The model's section of a config: what it refuses, and what it derives."""

from __future__ import annotations

from typing import Any

import pytest

from model.config import ModelConfig
from settings import UserError, parse, to_yaml

SMALL: dict[str, Any] = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "ffn_size": 96}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, r"by num_heads = 5; set hidden_size to 65, or num_heads to 4"),
        ({"num_kv_heads": 3}, r"by num_kv_heads = 3; set num_kv_heads to one of 1, 2, 4"),
        ({"num_kv_heads": 8}, r"num_heads = 4 must be divisible by num_kv_heads = 8"),
        ({"hidden_size": 12}, r"hidden_size / num_heads = 3 must be even"),
        ({"num_layers": 0}, r"num_layers = 0: .*greater than 0"),
        ({"norm": "rmsnrom"}, r'norm = .*no norm is called "rmsnrom"; did you mean "rmsnorm"\?'),
        ({"mlp": {"name": "swiglu", "width": 3}}, r"mlp.width: unknown key"),
        ({"position": {"name": "rope", "theta": "far"}}, r'position.theta = "far"'),
        ({"norm_scaling": "lns"}, r'norm_scaling = "lns"'),
        ({"objective": {"name": "next_token", "z_loss": -1}}, r"objective.z_loss = -1"),
        ({"num_head": 4}, r'num_head: unknown key; did you mean "num_heads"'),
        ({"vocab_size": 1}, r"vocab_size = 1: .*greater than 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(ModelConfig, {**SMALL, **changes}, source="model")
    assert len(str(caught.value).splitlines()) == 2  # where, and what


def test_a_head_of_odd_size_is_fine_without_rotation() -> None:
    assert ModelConfig.model_validate({**SMALL, "hidden_size": 12, "position": "none"}).head_size == 3


def test_the_config_goes_through_yaml_and_back() -> None:
    import yaml

    config = ModelConfig.model_validate(
        {
            **SMALL,
            "position": {"name": "rope", "theta": 5e5},
            "init": "scaled",
            "norm": {"name": "layernorm", "eps": 1e-6},
        }
    )
    assert parse(ModelConfig, yaml.safe_load(to_yaml(config)), source="yaml") == config


def test_defaults_and_derived_sizes() -> None:
    config = ModelConfig.model_validate(SMALL)
    assert (config.kv_heads, config.head_size) == (4, 16)
    assert ModelConfig.model_validate({**SMALL, "num_kv_heads": 2}).kv_heads == 2
    with pytest.raises(UserError, match=r"model.vocab_size is not known"):
        config.vocabulary  # noqa: B018


def test_the_vocabulary_comes_from_the_tokenizer() -> None:
    config = ModelConfig.model_validate(SMALL)
    assert [config.with_vocabulary(entries).vocabulary for entries in (1, 128, 129, 8192)] == [128, 128, 256, 8192]
    given = ModelConfig.model_validate({**SMALL, "vocab_size": 200})
    assert given.with_vocabulary(200) == given
    with pytest.raises(UserError, match=r"model.vocab_size = 200 is smaller than the tokenizer's 201 entries"):
        given.with_vocabulary(201)


def test_norm_scales_by_the_global_layer() -> None:
    plain = ModelConfig.model_validate(SMALL)
    scaled = ModelConfig.model_validate({**SMALL, "norm_scaling": "layernorm_scaling"})
    assert [plain.norm_scale(layer) for layer in (0, 3)] == [1.0, 1.0]
    assert [scaled.norm_scale(layer) for layer in (0, 3, 15)] == [1.0, 0.5, 0.25]
