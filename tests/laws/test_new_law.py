"""A law is one file: dropped into a copy of the rooms, the contract tests find and test it."""

from __future__ import annotations

from pathlib import Path

import pytest
from drop_in import copy_rooms, run_contracts

CURVE_LAW = '''
"""L = L0 + A S^-alpha, S the sum of the lr up to a step: a law that sees no annealing."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from laws.curve import EvaluationPoints, Floats, LossCurve, LrCurve
from laws.law import LAWS, Coefficient, CurveLaw, Shape, Slope


@LAWS.register
class UnderLrConfig(CurveLaw):
    name: Literal["under_lr"] = "under_lr"

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (Coefficient("L0", 1, "the loss that is left"), Coefficient("A", 1, "of progress"))

    def shapes(self) -> tuple[Shape, ...]:
        return (Shape("alpha", 0.0, 2.0, tuple(np.linspace(0.1, 1.0, 10)), "of progress"),)

    def check(self, curves: Sequence[LossCurve]) -> None:
        return None

    def features(self, points: Sequence[EvaluationPoints]) -> Floats:
        return np.log(np.concatenate([np.cumsum(at.schedule.lr)[at.steps - 1] for at in points]))

    def terms(self, shape_mq: Floats, features: Floats) -> tuple[Floats, Floats]:
        power_mn = np.exp(-shape_mq[:, :1] * features)
        phi_mnk = np.stack([np.ones_like(power_mn), power_mn], axis=-1)
        slope_mnkq = np.zeros((*phi_mnk.shape, 1))
        slope_mnkq[:, :, 1, 0] = -power_mn * features
        return phi_mnk, slope_mnkq

    def end_loss(self, theta_p: Floats, schedule: LrCurve, parameters: float | None = None) -> tuple[float, Slope]:
        l0, a, alpha = (float(x) for x in theta_p)
        total = float(schedule.lr.sum())
        by_lr = -alpha * a * total ** (-alpha - 1)
        return l0 + a * total**-alpha, lambda: np.full(schedule.lr.size, by_lr)
'''
COMPUTE_LAW = '''
"""L = E + B D^-beta: a law of the final loss over the tokens alone."""

from typing import Literal

import numpy as np

from laws.curve import Floats
from laws.law import Coefficient, Shape
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs


@COMPUTE_LAWS.register
class TokensOnlyConfig(ComputeLaw):
    name: Literal["tokens_only"] = "tokens_only"

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (Coefficient("E", 1, "the loss that is left"), Coefficient("B", 1, "of tokens"))

    def shapes(self) -> tuple[Shape, ...]:
        return (Shape("beta", 0.0, 2.0, tuple(np.linspace(0.1, 0.8, 8)), "of tokens"),)

    def features(self, runs: Runs) -> Floats:
        return np.log(runs.tokens)[None]

    def check(self, runs: Runs) -> None:
        return None
'''


@pytest.mark.slow
def test_a_file_in_laws_is_all_that_a_new_law_takes(tmp_path: Path) -> None:
    files = {"laws/loss_curves/under_lr.py": CURVE_LAW, "laws/scaling/tokens_only.py": COMPUTE_LAW}
    folder = copy_rooms(tmp_path, "laws", "schedules", "settings", "tests/laws", files=files)
    tests = [
        "tests/laws/loss_curves/test_law_contract.py",
        "tests/laws/scaling/test_compute_law_contract.py",
    ]
    code, found, output = run_contracts(folder, tests, keyword="under_lr or tokens_only")
    assert code == 0, output
    assert sum("under_lr" in test for test in found["PASSED"]) >= 6, output
    assert sum("tokens_only" in test for test in found["PASSED"]) >= 1, output
