"""Ridge regression, compared with solving it anew without each row."""

from __future__ import annotations

import numpy as np
import pytest

from data.selectors.compression.ridge import fit_ridge


@pytest.mark.parametrize(("rows", "priors"), [(40, [1.0, 1.0, 1.0]), (40, [1.0, 0.1, 0.01]), (4, [1.0, 1.0, 1.0])])
def test_left_out_predictions_are_those_of_a_fit_to_the_other_rows(rows: int, priors: list[float]) -> None:
    """The fit without a row has the penalty and the scales of the fit with it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 3)) * [1.0, 50.0, 0.01] + [0, 7, 0]
    targets = features @ [1.0, 0.1, 20.0] + rng.normal(size=rows)
    standardised = (features - features.mean(axis=0)) / features.std(axis=0) * priors
    power = np.linalg.svd(standardised)[1] ** 2
    by_penalty = []
    for penalty in 10.0 ** np.arange(-7, 2) * power.mean():
        predictions = []
        for row in range(rows):
            others = np.arange(rows) != row
            design = np.column_stack((standardised[others], np.ones(rows - 1)))
            gram = design.T @ design + np.diag([penalty] * 3 + [0.0])
            solved = np.linalg.solve(gram, design.T @ targets[others])
            predictions.append(float(np.append(standardised[row], 1) @ solved))
        by_penalty.append(np.array(predictions))
    errors = [float(((predictions - targets) ** 2).mean()) for predictions in by_penalty]
    fit = fit_ridge(features, targets, np.array(priors))
    np.testing.assert_allclose(fit.left_out_predictions, by_penalty[int(np.argmin(errors))], rtol=1e-6)


def test_a_linear_function_is_found_and_constant_features_are_left_out() -> None:
    rng = np.random.default_rng(1)
    features = np.column_stack((rng.normal(size=(60, 2)), np.full(60, 3.0)))
    fit = fit_ridge(features, features @ [2.0, -1.0, 0.0] + 5)
    np.testing.assert_allclose(fit.coefficients, [2, -1, 0], atol=1e-5)
    assert fit.intercept == pytest.approx(5, abs=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_give_finite_values(rows: int) -> None:
    rng = np.random.default_rng(2)
    fit = fit_ridge(rng.normal(size=(rows, 20)), rng.normal(size=rows))
    assert np.isfinite(fit.left_out_predictions).all()
    assert np.isfinite([*fit.coefficients, fit.intercept]).all()
