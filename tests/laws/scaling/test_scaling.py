"""Compute-optimal sizes, Step Law, width, critical batch."""

import numpy as np
import pytest

from laws.fitting.bootstrap import block_weights, resampled_parameters
from laws.fitting.correlation import Correlation
from laws.fitting.solver import Problem, fit_points
from laws.scaling.critical_batch import BatchRun, batch_over_loss, critical_batch
from laws.scaling.fit import fit_runs, read_runs
from laws.scaling.hyperparameters import non_embedding_parameters, singular_value_scale, step_law, transfer_width
from laws.scaling.laws import (
    AverageParametersConfig,
    ChinchillaConfig,
    PowerConstantConfig,
    Runs,
    average_parameters,
)
from laws.scaling.optimum import compute_optimal
from settings import UserError

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}  # arXiv 2203.15556, approach 3


def grid_of_runs(noise: float, seed: int = 0) -> Runs:
    parameters, tokens = np.repeat([4e7, 1e8, 3e8, 1e9, 3e9], 5), np.tile([1e9, 4e9, 1.6e10, 6e10, 2e11], 5)
    loss = HOFFMANN["E"] + HOFFMANN["A"] * parameters ** -HOFFMANN["alpha"]
    loss = loss + HOFFMANN["B"] * tokens ** -HOFFMANN["beta"]
    return Runs(parameters, tokens, loss * np.exp(noise * np.random.default_rng(seed).normal(size=25)))


def test_step_law_at_two_published_points() -> None:
    small = step_law(parameters=1e9, tokens=1e11)
    assert small.lr == pytest.approx(1.66e-3, rel=0.003)
    assert small.batch_tokens == pytest.approx(1.107e6, rel=0.001)
    assert not small.warnings
    assert small.rows(2048) == 540
    large = step_law(parameters=7e9, tokens=1.4e12)
    assert large.lr == pytest.approx(9.3e-4, rel=0.01)
    assert large.batch_tokens == pytest.approx(5.0e6, rel=0.01)
    assert len(large.warnings) == 2
    assert "extrapolation" in large.warnings[0]
    tiny = step_law(parameters=1.2e8, tokens=2.4e9)
    assert len(tiny.warnings) == 2


def test_step_laws_count_of_parameters() -> None:
    assert non_embedding_parameters(layers=1, hidden_size=4, ffn_size=16) == 4 * 16 + 3 * 4 * 16
    with pytest.raises(UserError, match="tokens = 0"):
        step_law(parameters=1e9, tokens=0)


def test_width_transfer() -> None:
    moved = transfer_width(lr=1e-2, weight_decay=0.1, tuned_width=256, width=1024)
    assert moved.matrix_lr == pytest.approx(2.5e-3)
    assert moved.matrix_weight_decay == pytest.approx(0.2)  # sqrt(4), not 4
    assert (moved.vector_lr, moved.vector_weight_decay) == (1e-2, 0.0)
    assert moved.singular_value_ratio == pytest.approx(1.0, rel=1e-12)
    unmatched = singular_value_scale(lr=2.5e-3, weight_decay=0.1, width=1024)
    assert unmatched / singular_value_scale(lr=1e-2, weight_decay=0.1, width=256) == pytest.approx(2**0.5)


def test_the_optimum_is_that_of_the_closed_form() -> None:
    """Equation 4 of arXiv 2203.15556: N = G (C / 6)^(beta / (alpha + beta)), of the coefficients."""
    flops = 5.76e23
    best = compute_optimal(ChinchillaConfig(), HOFFMANN, flops)
    assert 6 * best.parameters * best.tokens == pytest.approx(flops)
    a, b, alpha, beta = (HOFFMANN[name] for name in ("A", "B", "alpha", "beta"))
    scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    assert best.parameters == pytest.approx(scale * (flops / 6) ** (beta / (alpha + beta)), rel=1e-5)


def test_a_compute_fit_and_its_interval() -> None:
    fit = fit_runs(ChinchillaConfig(), grid_of_runs(0.0), samples=0)
    assert fit.values == pytest.approx(HOFFMANN, rel=1e-3)
    noisy = fit_runs(ChinchillaConfig(), grid_of_runs(2e-3))
    loss, low, high = noisy.predict(parameters=5e8, tokens=3e10)
    truth = HOFFMANN["E"] + HOFFMANN["A"] * 5e8 ** -HOFFMANN["alpha"] + HOFFMANN["B"] * 3e10 ** -HOFFMANN["beta"]
    assert low < truth < high
    assert low < loss < high
    assert noisy.warnings(parameters=1e12, tokens=3e10) != ()
    assert noisy.warnings(parameters=5e8, tokens=3e10) == ()


def test_compute_laws_refuse_what_cannot_identify_them() -> None:
    runs = grid_of_runs(0.0)
    tied = Runs(runs.parameters, 20 * runs.parameters, runs.loss)
    with pytest.raises(UserError, match="tokens are a power of parameters"):
        fit_runs(ChinchillaConfig(), tied)
    with pytest.raises(UserError, match="at least 3 different model sizes; these runs have 1"):
        fit_runs(ChinchillaConfig(), Runs(np.full(6, 1e8), np.geomspace(1e9, 1e11, 6), np.linspace(4, 3, 6)))
    with pytest.raises(UserError, match="at least 3 different compute budgets"):
        fit_runs(PowerConstantConfig(), Runs(np.full(4, 1e8), np.full(4, 1e9), np.linspace(4, 3, 4)))
    with pytest.raises(UserError, match="coefficient or an exponent of 0"):
        compute_optimal(ChinchillaConfig(), {**HOFFMANN, "A": 0.0}, 1e20)
    with pytest.raises(UserError, match="knows compute alone"):
        compute_optimal(PowerConstantConfig(), {"L_inf": 1.5, "A": 30.0, "alpha": 0.1}, 1e20)


def test_average_parameters_of_a_pruned_run() -> None:
    """Cubic pruning to half between 25% and 75% of the steps: N_avg = (1 - 0.625 / 2) N."""
    tau = np.clip((np.arange(100000) + 0.5) / 50000 - 0.5, 0, 1)
    parameters = 1e9 * (1 - 0.5 * (1 - (1 - tau) ** 3))
    assert average_parameters(parameters, np.ones(100000)) == pytest.approx(0.6875e9, rel=1e-4)


def test_sparse_and_dense_runs_lie_on_one_curve_of_the_average_count() -> None:
    """Fitted together with dense ones, pruned runs give the truth back if they count with N_avg, not the last N."""
    dense, rng = grid_of_runs(0.0), np.random.default_rng(0)
    begin, end = np.repeat([1e8, 6e8, 2e9], 4), np.tile([0.4, 0.6, 0.8, 0.5], 3)
    tau = np.clip((np.arange(2000) + 0.5) / 1000 - 0.5, 0, 1)
    average = np.array([
        average_parameters(n * (1 - sparsity * (1 - (1 - tau) ** 3)), np.ones(2000))
        for n, sparsity in zip(begin, end, strict=True)
    ])  # fmt: skip
    np.testing.assert_allclose(average, begin * (1 - 0.625 * end), rtol=1e-4)
    tokens = rng.choice([2e9, 1e10, 8e10], size=12)
    loss = HOFFMANN["E"] + HOFFMANN["A"] * average ** -HOFFMANN["alpha"] + HOFFMANN["B"] * tokens ** -HOFFMANN["beta"]

    def together(parameters: np.ndarray) -> Runs:
        columns = ((dense.parameters, parameters), (dense.tokens, tokens), (dense.loss, loss))
        return Runs(*(np.concatenate(pair) for pair in columns))

    fit = fit_runs(AverageParametersConfig(), together(average), samples=0)
    assert fit.values == pytest.approx(HOFFMANN, rel=1e-3)
    assert fit_runs(AverageParametersConfig(), together(begin * (1 - end)), samples=0).objective > 100 * fit.objective


@pytest.mark.slow
def test_intervals_of_a_compute_law_hold_the_truth_at_their_rate() -> None:
    """90% intervals of a new run's loss over 60 noisy grids: the count lies where 90% gives with probability 0.999."""
    truth = HOFFMANN["E"] + HOFFMANN["A"] * 6e8 ** -HOFFMANN["alpha"] + HOFFMANN["B"] * 3e10 ** -HOFFMANN["beta"]
    inside = 0
    for seed in range(60):
        _, low, high = fit_runs(ChinchillaConfig(), grid_of_runs(2e-3, seed), samples=100).predict(
            parameters=6e8, tokens=3e10
        )
        inside += low <= truth * np.exp(2e-3 * np.random.default_rng(1000 + seed).normal()) <= high
    assert 45 <= inside <= 60


def test_runs_from_a_csv(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "runs.csv"
    path.write_text("parameters,tokens,loss\n1e8,2e9,3.5\n2e8,2e9,3.2\n")
    assert read_runs(path).loss.tolist() == [3.5, 3.2]
    for text, message in (
        ("parameters,loss\n1,2\n", "no column tokens"),
        ("parameters,tokens,loss\n1e8,2e9,-1\n", "positive and finite"),
        ("parameters,tokens,loss\n1e8,2e9,low\n", "column loss must hold numbers"),
        ("", "holds no rows"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_runs(path)


def batch_runs(critical: float, noise: float = 0.0) -> list[BatchRun]:
    """L depends on S / (1 + critical / B): equal losses lie on the hyperbola."""
    rng = np.random.default_rng(0)
    steps = np.arange(20, 60001, 20)
    runs = []
    for batch in (2e4, 5e4, 2e5, 8e5, 2e6):
        loss = 2 + 3 * (steps / (1 + critical / batch)) ** -0.3
        runs.append(BatchRun(batch, steps, loss * np.exp(noise * rng.normal(size=steps.size))))
    return runs


def test_the_critical_batch_comes_back() -> None:
    found = critical_batch(batch_runs(2e5), 2.3)
    assert found.batch_tokens == pytest.approx(2e5, rel=0.01)
    assert found.least_steps == pytest.approx((3 / 0.3) ** (1 / 0.3), rel=0.01)
    assert found.least_tokens == pytest.approx(found.least_steps * 2e5, rel=0.01)
    noisy = critical_batch(batch_runs(2e5, noise=1e-3), 2.3)
    assert noisy.interval[0] < noisy.batch_tokens < noisy.interval[1]
    assert noisy.batch_tokens == pytest.approx(2e5, rel=0.15)


def test_the_critical_batch_refuses_what_cannot_tell() -> None:
    with pytest.raises(UserError, match=r"reached .* at 0 batch sizes"):
        critical_batch(batch_runs(2e5), 1.9)
    with pytest.raises(UserError, match="all far below the critical one"):
        critical_batch(batch_runs(1e9), 4.5)


def test_the_critical_batch_over_the_loss() -> None:
    from laws.scaling.critical_batch import CriticalBatch

    points = [CriticalBatch(loss, 1.0, 1.0, 3e8 / loss ** (1 / 0.2), (0.0, 0.0)) for loss in (4.0, 3.0, 2.5)]
    assert batch_over_loss(points) == pytest.approx((3e8, 0.2))
    with pytest.raises(UserError, match="at least 2 losses"):
        batch_over_loss(points[:1])


def test_every_repeat_of_the_bootstrap_is_a_minimum() -> None:
    """Repeats that are refined once more with the same weights do not move: E and B move far along a flat valley."""
    law, rng = ChinchillaConfig(), np.random.default_rng(0)
    flops = 10 ** rng.uniform(18, 22, size=240)
    parameters = np.clip(np.sqrt(flops / 120) * 10 ** rng.normal(scale=0.35, size=240), 4e7, 1.6e10)
    features = law.features(Runs(parameters, flops / 6 / parameters, np.ones(240)))
    truth = np.array([1.8172, 482.0, 2085.0, 0.3478, 0.3658])
    loss = law.evaluate(truth[None], features)[0][0] * np.exp(0.006 * rng.standard_t(3, size=240))
    best = fit_points(law, features, loss).theta_p
    sampled = resampled_parameters(law, features, loss, best, lengths=[1] * 240, count=50, seed=1)
    problem = Problem(law, features, np.log(loss))
    weights = block_weights([1] * 240, Correlation(np.empty(0)), problem.leverage(best), 50, np.random.default_rng(1))
    again, _ = Problem(law, features, np.log(loss), weights_mn=weights).refine(sampled)
    assert np.all(np.abs(again - sampled).max(axis=0) < 0.01 * sampled.std(axis=0))
