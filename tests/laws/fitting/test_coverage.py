"""90% intervals of every law hold the truth at about their rate, in few fits; benchmarks/law_coverage.md has many."""

import numpy as np
import pytest
from bench_law_coverage import CASES, CurveCase, counts
from scipy.stats import binom

from laws.law import LAWS
from laws.scaling.laws import COMPUTE_LAWS

FITS = 25
MEASURED = [name for name in CASES if "; correlated" in name] + ["power_constant; Gaussian", "chinchilla; heavy tails"]


def test_every_law_has_a_case() -> None:
    measured = {case.law.name if hasattr(case, "law") else "critical batch" for case in CASES.values()}
    assert measured == {*LAWS.names(), *COMPUTE_LAWS.names(), "critical batch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_intervals_hold_the_truth_at_their_rate(name: str) -> None:
    """The count of each quantity lies where a share of 86% to 96% gives with probability 0.999."""
    lowest, highest = binom.ppf(0.0005, FITS, 0.86), binom.ppf(0.9995, FITS, 0.96)
    for quantity, count in counts(name, fits=FITS).items():
        assert lowest <= count <= highest, (quantity, count)


def test_the_interval_of_the_critical_batch_holds_the_truth_at_its_rate() -> None:
    """200 fits: the count lies where 90% gives with probability 0.999."""
    count = counts("critical batch; independent", fits=200)["critical batch"]
    assert binom.ppf(0.0005, 200, 0.9) <= count <= binom.ppf(0.9995, 200, 0.9)


def test_the_noise_of_a_case_is_correlated_as_it_says() -> None:
    case = CASES["relaxation; correlated"]
    assert isinstance(case, CurveCase)
    noise = case.noise(np.random.default_rng(0), 20000)
    assert noise.std() == pytest.approx(1, rel=0.03)
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(0.5, abs=0.03)
