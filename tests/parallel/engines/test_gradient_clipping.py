"""Gradient clipping against torch's, and the rule that every replicated parameter is counted once."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import pytest
import torch
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import run_ranks
from torch import nn

from optim.sums import sum_of_squares
from parallel.engines import gradient_clipping
from parallel.mesh import Axis, Mesh
from parallel.parameter_shards import ParameterShard


def draw(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("max_norm", [0.1, 5.0, 1e3])
def test_norm_and_factor_are_torchs(max_norm: float) -> None:
    gradients = draw((8, 5), (3,), (40, 2))
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    norm = gradient_clipping.norm_of(float(sum_of_squares(gradients, torch.device("cpu"))))
    assert norm == pytest.approx(expected, rel=1e-6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        gradient_clipping.clip(gradient, norm, max_norm)
        assert parameter.grad is not None
        torch.testing.assert_close(gradient, parameter.grad, rtol=2e-5, atol=0)  # torch adds 1e-6 to the norm


def test_zero_turns_clipping_off_and_a_small_norm_changes_no_bit() -> None:
    for max_norm, norm in ((0.0, 1e9), (2.0, 1.5)):
        (gradient,) = draw((4, 4))
        kept = gradient.clone()
        gradient_clipping.clip(gradient, norm, max_norm)
        assert torch.equal(gradient, kept)


@pytest.mark.parametrize("norm", [math.inf, math.nan, -1.0])
def test_a_norm_that_is_not_finite_is_told_apart(norm: float) -> None:
    assert not gradient_clipping.is_finite(norm)
    assert gradient_clipping.is_finite(0.0)
    assert math.isnan(gradient_clipping.norm_of(math.nan))
    assert gradient_clipping.norm_of(0.0) == 0.0


@pytest.mark.parametrize("sharded_over_data", [False, True])
@pytest.mark.parametrize("dim", [None, 0])
def test_one_rank_counts_what_several_hold(dim: int | None, sharded_over_data: bool) -> None:
    """Over 2 tensor x 3 data ranks: a shard on each tensor rank once, a replica once; owners on each data rank."""
    no_group = cast(Any, None)
    counts = 0
    for tensor, data in itertools.product(range(2), range(3)):
        mesh = Mesh(
            tensor=Axis(2, tensor, no_group), data=Axis(3, data, no_group), pipeline=Axis(1, 0, no_group),
            embedding=None, device=torch.device("cpu"), rank=0, world_size=6,
        )  # fmt: skip
        owns = data == 1 or not sharded_over_data
        shard = ParameterShard("x.weight", nn.Parameter(torch.zeros(1)), (2,), dim, False, False)
        counts += owns and gradient_clipping.is_counted(shard, mesh, sharded_over_data=sharded_over_data)
        copy = ParameterShard("embedding.weight", nn.Parameter(torch.zeros(1)), (2,), dim, False, True)
        assert not gradient_clipping.is_counted(copy, mesh, sharded_over_data=sharded_over_data)
    assert counts == (1 if dim is None else 2)


def norms(parallel: dict[str, Any]) -> tuple[float, float, float]:
    """Returns the norm of a step, before and within DeepSpeed's step, and that of a step with an infinite loss."""
    trial = Trial(model={"num_layers": 1}, parallel=parallel, micro_batch_size=4)
    mesh, parts = start(trial)
    engine: Any = parts.engine
    within = []
    original = engine._optimizer.grad_norm
    engine._optimizer.grad_norm = lambda: within.append(original()) or original()
    micro_batches = local_micro_batches(next(global_batches()), trial, mesh, parts)
    result = engine.train_step(micro_batches, lr=1e-3)
    seen = within[-1]
    for batch in micro_batches:
        batch.weights_BT.fill_(math.inf)
    spoilt = engine.train_step(micro_batches, lr=1e-3)
    assert not result.skipped
    assert spoilt.skipped
    return result.grad_norm, seen, spoilt.grad_norm


@pytest.mark.parametrize("zero", [2, 3])
def test_deepspeed_gives_the_norm_within_its_step_and_skips_what_is_not_finite(zero: int) -> None:
    for norm, within_step, spoilt in run_ranks(2, norms, {"data": 2, "zero": zero}):
        assert within_step == pytest.approx(norm, rel=1e-6), "DeepSpeed's _global_grad_norm is not the step's norm"
        assert not math.isfinite(spoilt)
