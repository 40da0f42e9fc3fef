"""The chunked head and cross-entropy against torch's with all logits at once; recomputation; norm scaling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.attention import KERNELS, AttentionMask
from model.config import ModelConfig
from model.init import initialise
from model.init_schemes import INITS
from model.layers import TorchLayers
from model.mlps import MLPS
from model.norms import NORMS
from model.objectives import OBJECTIVES, NextTokenConfig
from model.position import POSITIONS
from model.transformer import Transformer

TOKENS, HIDDEN, VOCABULARY = 37, 16, 50
SMALL: dict[str, Any] = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48}


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x_ND = torch.randn(TOKENS, HIDDEN, generator=generator).requires_grad_()
    weight_VD = torch.randn(VOCABULARY, HIDDEN, generator=generator).requires_grad_()
    targets_N = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    weights_N = torch.rand(TOKENS, generator=generator) * (torch.rand(TOKENS, generator=generator) > 0.3)
    return x_ND, weight_VD, targets_N, weights_N


@pytest.mark.parametrize("chunk_tokens", [1, 8, 37, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_next_token_is_the_weighted_cross_entropy(chunk_tokens: int, z_loss: float) -> None:
    x_ND, weight_VD, targets_N, weights_N = inputs()
    objective = NextTokenConfig(z_loss=z_loss, chunk_tokens=chunk_tokens)
    sums = objective.loss(x_ND, weight_VD, targets_N, weights_N, TorchLayers())
    (3.0 * sums.total).backward()  # a gradient from above that is not 1
    x, weight = (each.detach().clone().requires_grad_() for each in (x_ND, weight_VD))
    logits_NV = x @ weight.T
    nll_N = nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    total = (weights_N * (nll_N + z_loss * logits_NV.logsumexp(-1).square())).sum()
    (3.0 * total).backward()
    torch.testing.assert_close(sums.total, total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sums.nll, nll_N[weights_N > 0].sum().detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x_ND.grad, x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight_VD.grad, weight.grad, rtol=1e-4, atol=1e-5)


def test_next_token_without_gradients() -> None:
    with torch.no_grad():
        x_ND, weight_VD, targets_N, weights_N = inputs()
        sums = NextTokenConfig(chunk_tokens=8).loss(x_ND, weight_VD, targets_N, weights_N, TorchLayers())
    assert not sums.total.requires_grad
    wanted = nn.functional.cross_entropy(x_ND @ weight_VD.T, targets_N, reduction="none")[weights_N > 0].sum()
    torch.testing.assert_close(sums.nll, wanted.detach(), rtol=1e-5, atol=1e-5)


def built(seq_length: int = 20, recompute: Any = "none", **more: Any) -> Transformer:
    config = ModelConfig.model_validate({**SMALL, "vocab_size": VOCABULARY, **more})
    model = Transformer(
        config, seq_length=seq_length, layers=TorchLayers(), attend=KERNELS["sdpa"], recompute=recompute
    )
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=1)
    return model


def loss_and_gradients(model: Transformer) -> tuple[Tensor, dict[str, Tensor]]:
    tokens_BT = torch.randint(0, VOCABULARY, (2, 21), generator=torch.Generator().manual_seed(4))
    positions_BT = torch.arange(20).expand(2, 20)
    documents_BT = (positions_BT >= 7).int()
    documents = AttentionMask.from_documents(documents_BT, kernel="sdpa", dtype=torch.float32)
    hidden_TBD = model(tokens_BT[:, :-1], documents, positions_BT - 7 * documents_BT)
    loss = model.loss(hidden_TBD, tokens_BT[:, 1:], torch.full((2, 20), 1 / 40)).total
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("norm_scaling", ["none", "layernorm_scaling"])
def test_recomputation_changes_nothing(recompute: str, norm_scaling: str) -> None:
    loss, gradients = loss_and_gradients(built(norm_scaling=norm_scaling, qk_norm=True))
    again, gradients_again = loss_and_gradients(built(norm_scaling=norm_scaling, qk_norm=True, recompute=recompute))
    assert torch.equal(loss, again)
    assert gradients.keys() == gradients_again.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_again[name]), name


def test_a_document_does_not_see_the_one_before() -> None:
    model = built()
    tokens_BT = torch.randint(0, VOCABULARY, (1, 20), generator=torch.Generator().manual_seed(4))
    positions_BT = torch.cat([torch.arange(7), torch.arange(13)])[None]
    documents_BT = torch.cat([torch.zeros(7), torch.ones(13)])[None].int()
    documents = AttentionMask.from_documents(documents_BT, kernel="sdpa", dtype=torch.float32)
    packed_TBD = model(tokens_BT, documents, positions_BT)
    alone_TBD = model(tokens_BT[:, 7:], None, torch.arange(13)[None])
    torch.testing.assert_close(packed_TBD[7:], alone_TBD, rtol=1e-5, atol=1e-6)


def test_norm_scaling_is_one_over_the_root_of_the_layer() -> None:
    """arXiv 2502.05795: scaling after the gain equals folding 1/sqrt(l) into the gains of an unscaled model."""
    scaled = built(norm_scaling="layernorm_scaling")
    folded = built()
    assert [scaled.config.norm_scale(layer) for layer in range(3)] == [1.0, 2**-0.5, 3**-0.5]
    with torch.no_grad():
        for layer in range(3):
            block = folded.get_submodule(f"layers.{layer}")
            for norm in ("attention_norm", "mlp_norm"):
                block.get_parameter(f"{norm}.weight").mul_((layer + 1) ** -0.5)
        tokens_BT = torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(4))
        positions_BT = torch.arange(20).expand(2, 20)
        torch.testing.assert_close(
            scaled.logits(scaled(tokens_BT, None, positions_BT)),
            folded.logits(folded(tokens_BT, None, positions_BT)),
            rtol=1e-5,
            atol=1e-6,
        )


def test_the_first_layer_is_pre_norm_to_the_bit() -> None:
    scaled, plain = built(num_layers=1, norm_scaling="layernorm_scaling"), built(num_layers=1)
    (loss, gradients), (wanted, wanted_gradients) = loss_and_gradients(scaled), loss_and_gradients(plain)
    assert torch.equal(loss, wanted)
    assert all(torch.equal(gradients[name], wanted_gradients[name]) for name in wanted_gradients)


def test_both_damping_methods_together_are_warned_about() -> None:
    both = ModelConfig.model_validate({**SMALL, "norm_scaling": "layernorm_scaling", "init": "scaled"})
    assert len(both.warnings()) == 1
    assert not ModelConfig.model_validate({**SMALL, "init": "scaled"}).warnings()


def choices() -> list[Any]:
    registries = {"norm": NORMS, "mlp": MLPS, "position": POSITIONS, "objective": OBJECTIVES, "init": INITS}
    return [
        pytest.param(key, name, id=f"{key}-{name}") for key, registry in registries.items() for name in registry.names()
    ]


@pytest.mark.parametrize(("key", "name"), choices())
def test_every_registered_method_trains(key: str, name: str) -> None:
    """A file in model/ that registers a method needs nothing else."""
    loss, gradients = loss_and_gradients(built(**{key: name}))
    again, _ = loss_and_gradients(built(**{key: name}))
    assert torch.equal(loss, again)
    assert torch.isfinite(loss)
    for parameter, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), parameter
        assert gradient.any(), parameter
