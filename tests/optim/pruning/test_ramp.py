"""The pruning schedule: endpoints, both shapes, and shares of compute against sums over steps."""

from __future__ import annotations

import itertools

import pytest

from optim.pruning.ramp import Ramp, ramp_by_compute, ramp_by_steps

STEPS = 100_000


@pytest.mark.parametrize("shape", ["cubic", "linear"])
def test_sparsity_rises_from_zero_to_its_target(shape: str) -> None:
    ramp = Ramp(0.8, 10, 30, shape)  # type: ignore[arg-type]
    values = [ramp.sparsity(step) for step in range(41)]
    assert values[:11] == [0.0] * 11
    assert values[30:] == [0.8] * 11
    assert all(one < other for one, other in itertools.pairwise(values[10:31]))
    assert values[20] == pytest.approx(0.8 * (0.875 if shape == "cubic" else 0.5))


@pytest.mark.parametrize(("shape", "loss_of_average"), [("cubic", 0.625), ("linear", 0.5)])
@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_the_average_is_the_closed_form_by_steps(shape: str, loss_of_average: float, target: float) -> None:
    """From 25% to 75% of the steps, N_avg / N is 1 - 0.625 s (cubic) or 1 - 0.5 s (linear)."""
    ramp = ramp_by_steps(target, 0.25, 0.75, steps=STEPS, shape=shape)  # type: ignore[arg-type]
    average = sum(1 - ramp.sparsity(step) for step in range(1, STEPS + 1)) / STEPS
    assert average == pytest.approx(1 - loss_of_average * target, abs=1e-4)


@pytest.mark.parametrize("shape", ["cubic", "linear"])
@pytest.mark.parametrize("target", [0.0, 0.5, 0.9])
def test_shares_of_compute_hold_for_the_sum_over_steps(shape: str, target: float) -> None:
    prunable, dense = 70, 6.0 * 100
    ramp = ramp_by_compute(
        target,
        0.25,
        0.75,
        steps=STEPS,
        shape=shape,
        prunable=prunable,
        flops_per_token=dense,  # type: ignore[arg-type]
    )
    cost = [dense - 6 * prunable * ramp.sparsity(step) for step in range(1, STEPS + 1)]
    total = sum(cost)
    assert sum(cost[: ramp.start]) / total == pytest.approx(0.25, abs=1e-4)
    assert sum(cost[: ramp.end]) / total == pytest.approx(0.75, abs=1e-4)
    if target == 0:
        assert (ramp.start, ramp.end) == (STEPS // 4, 3 * STEPS // 4)
