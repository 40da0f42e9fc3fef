"""The head's loss with the vocabulary sharded over ranks (threads here), in bfloat16, without all logits in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor, nn

from model.cross_entropy import cross_entropy, default_chunk_tokens
from model.layers import TorchLayers

TOKENS, HIDDEN, VOCABULARY = 37, 16, 48


class ThreadRanks(TorchLayers):
    """One of `tp_size` ranks that are threads of this process: sums and maxima meet at a barrier."""

    def __init__(self, rank: int, tp_size: int, barrier: threading.Barrier, desk: list[Tensor]) -> None:
        self.rank, self.tp_size = rank, tp_size
        self._barrier, self._desk = barrier, desk

    def _reduced(self, x: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        self._desk[self.rank] = x.detach().clone()
        self._barrier.wait()
        result = reduce(torch.stack(self._desk))
        self._barrier.wait()
        return result

    def sum(self, x: Tensor) -> Tensor:
        return self._reduced(x, lambda each: each.sum(0))

    def max(self, x: Tensor) -> Tensor:
        return self._reduced(x, lambda each: each.amax(0))


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x_ND = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    head_VD = torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype).requires_grad_()
    targets_N = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    weights_N = torch.rand(TOKENS, generator=generator) * (torch.rand(TOKENS, generator=generator) > 0.3)
    return x_ND, head_VD, targets_N, weights_N


def with_all_logits(x: Tensor, head: Tensor, targets: Tensor, weights: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    logits = x @ head.T
    nll = nn.functional.cross_entropy(logits, targets, reduction="none")
    return (weights * (nll + z_loss * logits.logsumexp(1).square())).sum(), nll[weights > 0].sum()


@pytest.mark.parametrize("tp_size", [1, 2, 3])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_a_vocabulary_sharded_over_ranks(tp_size: int, z_loss: float) -> None:
    x, head, targets, weights = (each.detach() for each in inputs(torch.float64))
    x.requires_grad_()
    head.requires_grad_()
    total, nll = with_all_logits(x, head, targets, weights, z_loss)
    wanted_x, wanted_head = torch.autograd.grad(2.5 * total, (x, head))
    barrier, desk = threading.Barrier(tp_size), [torch.empty(0)] * tp_size

    def on_rank(rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mine = x.detach().clone().requires_grad_()
        part = head.detach().chunk(tp_size)[rank].clone().requires_grad_()
        layers = ThreadRanks(rank, tp_size, barrier, desk)
        sums = cross_entropy(mine, part, targets, weights, layers, z_loss=z_loss, chunk_tokens=10)
        return *sums, *torch.autograd.grad(2.5 * sums[0], (mine, part))

    with ThreadPoolExecutor(tp_size) as pool:
        ranks = list(pool.map(on_rank, range(tp_size)))
    for got_total, got_nll, _, _ in ranks:
        torch.testing.assert_close(got_total, total.detach())
        torch.testing.assert_close(got_nll, nll.detach())
    torch.testing.assert_close(sum(rank[2] for rank in ranks), wanted_x)  # `enter` sums them
    torch.testing.assert_close(torch.cat([rank[3] for rank in ranks]), wanted_head)


def test_bfloat16_states_have_an_fp32_loss() -> None:
    """Only the logits and their gradients are rounded: 2^-9 of each, so less of their sums."""
    x, head, targets, weights = inputs(torch.bfloat16)
    wide_x, wide_head = (each.detach().float().requires_grad_() for each in (x, head))
    total, nll = cross_entropy(x, head, targets, weights, TorchLayers(), z_loss=1e-3, chunk_tokens=8)
    wanted_total, wanted_nll = with_all_logits(wide_x, wide_head, targets, weights, 1e-3)
    assert total.dtype == nll.dtype == torch.float32
    torch.testing.assert_close(total, wanted_total, rtol=2e-3, atol=0)
    torch.testing.assert_close(nll, wanted_nll.detach(), rtol=2e-3, atol=0)
    got = torch.autograd.grad(total, (x, head))
    for mine, right in zip(got, torch.autograd.grad(wanted_total, (wide_x, wide_head)), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - right).norm() < 1e-2 * right.norm()


def test_large_logits_do_not_overflow() -> None:
    x, head, targets, weights = (each.detach() for each in inputs())
    total, nll = cross_entropy(100 * x, head, targets, weights, TorchLayers(), z_loss=0.0, chunk_tokens=8)
    wanted_total, wanted_nll = with_all_logits(100 * x.double(), head.double(), targets, weights.double(), 0.0)
    torch.testing.assert_close(total.double(), wanted_total, rtol=1e-5, atol=0)
    torch.testing.assert_close(nll.double(), wanted_nll, rtol=1e-5, atol=0)


def test_what_is_masked_counts_for_nothing_whatever_its_target() -> None:
    x, head, targets, weights = inputs()
    total, nll = cross_entropy(x, head, targets, weights, TorchLayers(), z_loss=1e-2, chunk_tokens=8)
    strange = torch.where(weights > 0, targets, torch.where(torch.arange(TOKENS) % 2 == 0, -100, VOCABULARY + 5))
    total_again, nll_again = cross_entropy(x, head, strange, weights, TorchLayers(), z_loss=1e-2, chunk_tokens=8)
    assert torch.equal(total, total_again)
    assert torch.equal(nll, nll_again)
    (grad_x,) = torch.autograd.grad(total, x)
    assert not grad_x[weights == 0].any()
    assert grad_x[weights > 0].any(dim=1).all()


def test_a_second_backward_pass_is_refused() -> None:
    """Gradients are scaled in place: a second pass must fail, not give another result."""
    x, head, targets, weights = inputs()
    total, _ = cross_entropy(x, head, targets, weights, TorchLayers(), z_loss=0.0, chunk_tokens=8)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("gradients", [True, False])
def test_all_logits_are_never_held(gradients: bool) -> None:
    tokens, vocabulary, chunk = 1024, 4096, 64
    x = torch.randn(tokens, 8, requires_grad=gradients)
    head = torch.randn(vocabulary, 8, requires_grad=gradients)
    targets, weights = torch.zeros(tokens, dtype=torch.int64), torch.ones(tokens)
    with LiveMemory() as memory:
        cross_entropy(x, head, targets, weights, TorchLayers(), z_loss=0.0, chunk_tokens=chunk)
    held_by_all_logits = 4 * tokens * vocabulary
    assert memory.most < held_by_all_logits / 4


def test_sums_over_thousands_of_chunks_lose_nothing() -> None:
    """Each chunk of the same token adds the same number, so fp32 would round every one of them the same way."""
    tokens, vocabulary, chunk = 50_000, 7, 10
    x, head = torch.full((tokens, 1), 0.3), torch.arange(float(vocabulary))[:, None]
    targets, weights = torch.full((tokens,), 2), torch.full((tokens,), 0.7)
    total, nll = cross_entropy(x, head, targets, weights, TorchLayers(), z_loss=0.0, chunk_tokens=chunk)
    wanted_total, wanted_nll = with_all_logits(x.double(), head.double(), targets, weights.double(), 0.0)
    torch.testing.assert_close(total.double(), wanted_total, rtol=3e-7, atol=0)
    torch.testing.assert_close(nll.double(), wanted_nll, rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("device", "vocabulary", "tokens"),
    [("cpu", 50304, 512), ("cuda", 50304, 2560), ("cuda", 128256, 1024), ("cuda", 8192, 16384), ("cuda", 600000, 512)],
)
def test_chunks_are_for_a_cpus_cache_or_fill_a_gpu(device: str, vocabulary: int, tokens: int) -> None:
    assert default_chunk_tokens(device, vocabulary) == tokens
