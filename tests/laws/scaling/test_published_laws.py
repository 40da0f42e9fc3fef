"""Laws at published parameters: values of the papers, and fits of noiseless runs that give the parameters back."""

import numpy as np
import pytest

from laws.curve import Floats
from laws.scaling.farseer import FarseerConfig
from laws.scaling.fit import fit_runs
from laws.scaling.kaplan_batch import KaplanBatchConfig
from laws.scaling.laws import ChinchillaConfig, ComputeLaw, Runs
from laws.scaling.optimum import compute_optimal
from laws.scaling.repetition import RepetitionConfig
from laws.scaling.skaling import SkalingConfig
from settings import UserError

REFIT = {"E": 1.817, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}  # of Chinchilla, Epoch AI 2024
SKALING = {"E": 1.757, "A": 2000.0, "B": 9000.0, "alpha": 0.424, "beta": 0.430, "k": 0.774}  # A, B: of this size
KAPLAN = {"A": 6.5e13**0.077, "B": 2.1e3**0.76, "alpha": 0.077, "beta": 0.76, "B_star": 2e8, "alpha_B": 0.21}
REPETITION = {
    "E": np.exp(0.62548),
    "A": np.exp(6.2554),
    "B": np.exp(7.3050),
    "alpha": 0.35266,
    "beta": 0.35266,
    "R_D": 15.388,
    "R_N": 5.310,
}


def grid(**columns: Floats) -> Runs:
    """36 runs of six sizes, with other tokens for each."""
    parameters = np.repeat(np.geomspace(5e7, 1e10, 6), 6)
    tokens = parameters * np.tile(np.geomspace(5, 200, 6), 6) * np.repeat([1.0, 1.1, 0.9, 1.2, 0.8, 1.0], 6)
    return Runs(parameters, tokens, np.ones(36), **columns)


def made(law: ComputeLaw, values: dict[str, float], runs: Runs) -> Runs:
    """The runs with the losses that a law gives."""
    loss = law.evaluate(law.pack(values)[None], law.features(runs))[0][0]
    return Runs(runs.parameters, runs.tokens, loss, runs.batch_tokens, runs.unique_tokens)


def test_the_chinchilla_refit_comes_back() -> None:
    runs = grid()
    loss = REFIT["E"] + REFIT["A"] * runs.parameters ** -REFIT["alpha"] + REFIT["B"] * runs.tokens ** -REFIT["beta"]
    fit = fit_runs(ChinchillaConfig(), Runs(runs.parameters, runs.tokens, loss), samples=0)
    assert fit.values == pytest.approx(REFIT, rel=1e-4)
    best = compute_optimal(fit.law, fit.values, 5.76e23)  # the budget of Chinchilla: about 20 tokens a parameter
    assert 10 < best.tokens / best.parameters < 40


def test_skaling_comes_back_and_its_best_split_does_not_depend_on_k() -> None:
    runs = grid()
    inner = SKALING["A"] * runs.parameters ** -SKALING["alpha"] + SKALING["B"] * runs.tokens ** -SKALING["beta"]
    fit = fit_runs(SkalingConfig(), Runs(runs.parameters, runs.tokens, SKALING["E"] + inner ** SKALING["k"]), samples=0)
    assert isinstance(fit.law, SkalingConfig)
    assert fit.law.published(fit.values) == pytest.approx(SKALING, rel=2e-3)
    splits = []
    for k in (0.5, 1.0):
        values = fit.law.of_published({**SKALING, "k": k})
        splits.append(compute_optimal(fit.law, values, 1e22).parameters)
    a, b, alpha, beta = (SKALING[name] for name in ("A", "B", "alpha", "beta"))
    closed = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (1e22 / 6) ** (beta / (alpha + beta))
    assert splits == pytest.approx([closed, closed], rel=1e-5)


def test_skaling_with_a_power_of_one_is_chinchilla() -> None:
    runs, law = grid(), SkalingConfig()
    values = law.of_published({**REFIT, "k": 1.0})
    assert law.published(values) == pytest.approx({**REFIT, "k": 1.0})
    theirs = made(ChinchillaConfig(), REFIT, runs).loss
    np.testing.assert_allclose(made(law, values, runs).loss, theirs, rtol=1e-12)


def test_the_golden_values_of_the_repetition_law() -> None:
    runs = Runs(np.array([6.34e9, 8.67e9]), np.array([242e9, 178e9]), np.ones(2), unique_tokens=np.full(2, 25e9))
    np.testing.assert_allclose(made(RepetitionConfig(), REPETITION, runs).loss, [2.22564, 2.22696], atol=2e-5)


def test_the_worth_of_a_repeat() -> None:
    """The next token after r repeats is worth exp(-r / R_D) of a fresh one: 0.82 at 3, 0.38 at 15."""
    unique, values = 1e10, {**REPETITION, "A": 0.0}
    for repeats, worth in ((3, 0.82), (15, 0.38)):
        tokens = unique * (1 + repeats) * np.array([1 - 1e-6, 1 + 1e-6])
        runs = Runs(np.full(2, 1e8), tokens, np.ones(2), unique_tokens=np.full(2, unique))
        loss = made(RepetitionConfig(), values, runs).loss
        effective = ((loss - values["E"]) / values["B"]) ** (-1 / values["beta"])
        assert np.diff(effective)[0] / np.diff(tokens)[0] == pytest.approx(worth, abs=0.005)


def test_repetition_comes_back_from_runs_with_repeats() -> None:
    epochs = np.tile([1.0, 2.0, 8.0, 20.0, 60.0, 4.0], 6)
    runs = grid(unique_tokens=grid().tokens / epochs)
    fit = fit_runs(RepetitionConfig(), made(RepetitionConfig(), REPETITION, runs), samples=0)
    assert fit.values == pytest.approx(REPETITION, rel=1e-3)
    with pytest.raises(UserError, match="unique_tokens is missing"):
        fit_runs(RepetitionConfig(), grid())


def test_kaplans_batch_term_solves_its_own_equation() -> None:
    runs = grid(batch_tokens=np.tile(np.geomspace(3e4, 3e7, 6), 6))
    loss = made(KaplanBatchConfig(), KAPLAN, runs).loss
    assert runs.batch_tokens is not None
    steps, critical = runs.tokens / runs.batch_tokens, KAPLAN["B_star"] / loss ** (1 / KAPLAN["alpha_B"])
    least = steps / (1 + critical / runs.batch_tokens)
    published = (6.5e13 / runs.parameters) ** 0.077 + (2.1e3 / least) ** 0.76
    np.testing.assert_allclose(loss, published, rtol=1e-10)
    plain = (6.5e13 / 1e9) ** 0.077 + (2.1e3 / 1e5) ** 0.76  # far above the critical batch every step counts
    large = Runs(np.array([1e9]), np.array([1e17]), np.ones(1), batch_tokens=np.array([1e12]))
    assert made(KaplanBatchConfig(), KAPLAN, large).loss[0] == pytest.approx(plain, rel=1e-4)


def test_kaplans_batch_term_comes_back() -> None:
    """B_star and alpha_B of the law, from runs at six batch sizes; the prior of alpha_B lies at the truth."""
    batch = np.tile(np.roll(np.geomspace(3e4, 3e7, 6), 2), 6) * np.repeat([1.0, 2.0, 0.5, 1.5, 0.7, 1.0], 6)
    runs = grid(batch_tokens=batch)
    fit = fit_runs(KaplanBatchConfig(), made(KaplanBatchConfig(), KAPLAN, runs), samples=0)
    assert fit.values == pytest.approx(KAPLAN, rel=2e-2)
    with pytest.raises(UserError, match="at least 3 different batch sizes"):
        fit_runs(KaplanBatchConfig(), grid(batch_tokens=np.full(36, 1e5)))
    with pytest.raises(UserError, match="batch_tokens is missing"):
        fit_runs(KaplanBatchConfig(), grid())


def test_farseer_describes_runs_of_its_form() -> None:
    """Parameters of the size of the paper's, not checked against its text; nine do not come back one by one."""
    n, d = grid().parameters, grid().tokens
    exponent = np.exp(-0.124 * n**0.123 + 0.424)
    loss = np.exp(-0.021 * n**0.169 + 0.091) + np.exp(88.0 * n**-0.1 - 5.29) * d**-exponent
    fit = fit_runs(FarseerConfig(), Runs(n, d, loss), samples=0)
    between = Runs(n * 1.1, d * 0.8, np.ones(36))
    found = fit.law.evaluate(fit.law.pack(fit.values)[None], fit.law.features(between))[0][0]
    exponent = np.exp(-0.124 * between.parameters**0.123 + 0.424)
    truth = np.exp(-0.021 * between.parameters**0.169 + 0.091)
    truth += np.exp(88.0 * between.parameters**-0.1 - 5.29) * between.tokens**-exponent
    np.testing.assert_allclose(found, truth, rtol=3e-4)
