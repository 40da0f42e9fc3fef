"""The correlation of residuals, and how much of it blocks of weights count."""

import numpy as np
import pytest
from scipy.signal import lfilter

from laws.fitting.correlation import correlation


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.8])
def test_the_correlation_of_residuals_is_that_of_the_noise(kept: float) -> None:
    """Noise of which each remembers a share k is correlated over (1 + k) / (1 - k) losses, also after a fit of four."""
    rng, found = np.random.default_rng(5), []
    column_n = np.linspace(-1, 1, 60)
    slow = np.stack([np.tile(column_n**power, 4) for power in range(4)], axis=1)
    for _ in range(100):
        noise = lfilter([np.sqrt(1 - kept**2)], [1, -kept], rng.normal(size=(4, 160)), axis=1)[:, 100:]
        residual = noise.ravel() - slow @ np.linalg.lstsq(slow, noise.ravel(), rcond=None)[0]
        found.append(correlation(np.split(residual, 4)).steps)
    assert np.mean(found) == pytest.approx((1 + kept) / (1 - kept), rel=0.15)


def test_blocks_count_a_part_of_the_correlation() -> None:
    noise = correlation([np.repeat(np.random.default_rng(0).normal(size=100), 8)])
    assert noise.share_within(10**6) == pytest.approx(1, abs=1e-3)
    assert noise.share_within(1) == pytest.approx(1 / noise.steps)
    assert 0.4 < noise.share_within(16) < 0.8
