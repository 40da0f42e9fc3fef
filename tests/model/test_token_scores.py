"""The scores of tokens against dense float64, and their identities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model.layers import TorchLayers
from model.token_scores import TokenScores, token_scores

TOKENS, HIDDEN, VOCABULARY = 37, 16, 48


def dense_scores(logits_NV: Tensor, targets_N: Tensor) -> TokenScores:
    """The definitions, in float64 and with all probabilities in memory."""
    p_NV = logits_NV.double().softmax(1)
    onehot_NV = torch.nn.functional.one_hot(targets_N, logits_NV.shape[1])
    nll_N = torch.nn.functional.cross_entropy(logits_NV.double(), targets_N, reduction="none")
    return TokenScores((p_NV - onehot_NV).norm(dim=1), nll_N, (logits_NV.argmax(1) == targets_N).double())


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x_ND = torch.randn(TOKENS, HIDDEN, generator=generator)
    head_VD = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    targets_N = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    targets_N[::3] = (x_ND @ head_VD.T).argmax(1)[::3]  # so that some tokens are predicted
    return x_ND, head_VD, targets_N


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_scores_are_those_of_dense_float64(scale: float) -> None:
    x, head, targets = inputs()
    found = token_scores(scale * x, head, targets, TorchLayers(), chunk_tokens=10)
    wanted = dense_scores((scale * x).double() @ head.double().T, targets)
    assert 0 < wanted.accuracy.sum() < TOKENS
    torch.testing.assert_close(found.el2n.double(), wanted.el2n, rtol=1e-5, atol=2e-5 * scale)
    torch.testing.assert_close(found.nll.double(), wanted.nll, rtol=1e-5, atol=2e-5 * scale)
    torch.testing.assert_close(found.accuracy.double(), wanted.accuracy)


def test_uniform_logits_have_the_norm_of_the_identity() -> None:
    vocabulary = 32_768
    found = token_scores(torch.zeros(2, 4), torch.ones(vocabulary, 4), torch.tensor([0, 5]), TorchLayers())
    torch.testing.assert_close(found.el2n.double(), torch.full((2,), math.sqrt(1 - 1 / vocabulary)).double())
    torch.testing.assert_close(found.nll, torch.full((2,), math.log(vocabulary)))
    torch.testing.assert_close(found.accuracy, torch.full((2,), 1 / vocabulary))


def test_a_certain_target_has_norm_0_and_a_certain_mistake_the_root_of_2() -> None:
    head = torch.eye(3)
    found = token_scores(40 * head[[0, 0]], head, torch.tensor([0, 1]), TorchLayers())
    torch.testing.assert_close(found.el2n, torch.tensor([0.0, math.sqrt(2)]))
    torch.testing.assert_close(found.accuracy, torch.tensor([1.0, 0.0]))


def test_a_norm_near_0_is_not_lost_to_rounding() -> None:
    """In fp32 the form sum p² - 2 p_y + 1 has an error of 2e-4 here, more than the norm itself."""
    logits = torch.tensor([[12.0, 1.0, 0.0, 0.5]])
    found = token_scores(logits, torch.eye(4), torch.tensor([0]), TorchLayers())
    torch.testing.assert_close(found.el2n.double(), dense_scores(logits, torch.tensor([0])).el2n, rtol=1e-5, atol=0.0)


def test_the_order_of_the_vocabulary_does_not_matter() -> None:
    x, head, targets = inputs()
    order = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(1))
    permuted = token_scores(x, head[order], order.argsort()[targets], TorchLayers())
    for one, other in zip(token_scores(x, head, targets, TorchLayers()), permuted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
