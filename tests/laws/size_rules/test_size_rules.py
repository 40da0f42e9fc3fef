"""The size rules: every one returns the tuned run at its own size, and finds the constants that made tuned runs."""

from __future__ import annotations

import math

import pytest

from laws.scaling.hyperparameters import step_law
from laws.size_rules.base import SIZE_RULES, SizeRule, TunedRun
from laws.size_rules.optimum import SweptRun, best_values
from laws.size_rules.power import PowerConfig
from settings import UserError

TUNED = TunedRun(parameters=1e8, tokens=2e9, lr=1e-3, batch_tokens=1e5, weight_decay=0.1)


@pytest.fixture(params=SIZE_RULES.names())
def rule(request: pytest.FixtureRequest) -> SizeRule:
    return SIZE_RULES.parse(request.param)


def test_a_rule_returns_the_tuned_run_at_its_own_size(rule: SizeRule) -> None:
    found = rule.run(TUNED, parameters=TUNED.parameters, tokens=TUNED.tokens)
    for name in ("parameters", "tokens", "lr", "batch_tokens", "weight_decay"):
        assert getattr(found, name) == pytest.approx(getattr(TUNED, name), rel=1e-12)


def test_a_rule_refuses_sizes_that_are_none(rule: SizeRule) -> None:
    for parameters, tokens in ((0.0, 1e9), (1e9, -1.0), (math.inf, 1e9), (1e9, math.nan)):
        with pytest.raises(UserError, match="above 0 and finite"):
            rule.run(TUNED, parameters=parameters, tokens=tokens)


def test_a_rule_is_refitted_to_the_runs_that_it_made_itself(rule: SizeRule) -> None:
    runs = [rule.run(TUNED, parameters=1e7 * 3**i, tokens=2e8 * 3**i) for i in range(3)]
    again = rule.refitted(runs).run(runs[0], parameters=1e9, tokens=2e10)
    expected = rule.run(TUNED, parameters=1e9, tokens=2e10)
    assert (again.lr, again.batch_tokens) == pytest.approx((expected.lr, expected.batch_tokens), rel=1e-9)


def test_no_weight_decay_stays_none(rule: SizeRule) -> None:
    bare = TunedRun(1e8, 2e9, 1e-3, 1e5)
    assert rule.run(bare, parameters=1e9, tokens=1e10).weight_decay == 0


def test_the_power_rule_is_step_law_relative_to_one_of_its_runs() -> None:
    there, here = step_law(parameters=1e9, tokens=2e10), step_law(parameters=3e8, tokens=6e9)
    tuned = TunedRun(1e9, 2e10, there.lr, there.batch_tokens)
    found = PowerConfig().run(tuned, parameters=3e8, tokens=6e9)
    assert (found.lr, found.batch_tokens) == pytest.approx((here.lr, here.batch_tokens), rel=1e-12)


def test_the_weight_decay_keeps_the_memory_of_adamw_as_a_share_of_the_run() -> None:
    """At equal tokens a parameter, batch / (lr weight_decay D) is the same at every size."""

    def memory(run: TunedRun) -> float:
        return run.batch_tokens / (run.lr * run.weight_decay * run.tokens)

    equal = PowerConfig().run(TUNED, parameters=1e7, tokens=2e8)
    longer = PowerConfig().run(TUNED, parameters=1e8, tokens=8e9)
    assert memory(equal) == pytest.approx(memory(TUNED), rel=1e-12)
    assert memory(longer) == pytest.approx(memory(TUNED) * 4**-0.527, rel=1e-12)


def test_two_sweeps_refit_the_powers_that_they_can_tell() -> None:
    small = TunedRun(1e6, 2e7, 4e-3, 1e4)
    larger = PowerConfig().refitted([small, TunedRun(4e6, 8e7, 2e-3, 2e4)])
    assert larger.lr_by_parameters == pytest.approx(-0.5 - 0.3075)
    assert larger.lr_by_tokens == 0.3075
    assert larger.batch_by_tokens == pytest.approx(0.5)
    untuned = PowerConfig().refitted([small, TunedRun(4e6, 8e7, 2e-3, 1e4)], of=["lr"])
    assert untuned.batch_by_tokens == PowerConfig().batch_by_tokens
    longer = PowerConfig().refitted([small, TunedRun(1e6, 8e7, 8e-3, 2e4)])
    assert (longer.lr_by_parameters, longer.lr_by_tokens) == pytest.approx((-0.7129, 0.5))


@pytest.mark.parametrize("runs", [[], [TUNED], [TUNED, TUNED]])
def test_a_refit_from_one_size_and_length_is_refused(runs: list[TunedRun]) -> None:
    with pytest.raises(UserError, match="add a sweep at another rung"):
        PowerConfig().refitted(runs)


def test_the_optimum_of_a_sweep_is_that_of_its_parabola() -> None:
    def loss(lr: float, batch: float) -> float:
        return 3 + 0.1 * math.log(lr / 3e-3) ** 2 + 0.05 * math.log(batch / 40) ** 2

    cross = [(lr, 32.0) for lr in (1e-3, 2e-3, 4e-3, 8e-3)] + [(4e-3, batch) for batch in (16.0, 64.0)]
    runs = [
        SweptRun({"lr": lr, "batch": batch}, loss(lr, batch) + seed) for lr, batch in cross for seed in (-1e-3, 1e-3)
    ]
    assert best_values(runs, name="sweep") == pytest.approx({"lr": 3e-3, "batch": 40}, rel=1e-9)


def test_an_optimum_at_the_edge_is_refused_with_the_side() -> None:
    runs = [SweptRun({"lr": lr}, lr) for lr in (1e-3, 2e-3, 4e-3)]
    with pytest.raises(UserError, match=r"sweeps/a: the best lr, 0.001, lies at the edge .* add smaller values"):
        best_values(runs, name="sweeps/a")
    assert best_values(runs[:1], name="a") == {"lr": 1e-3}
    with pytest.raises(UserError, match="no finished run"):
        best_values([], name="a")
