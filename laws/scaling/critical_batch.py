"""The critical batch size, from runs at several batch sizes that reach equal losses.

To a given loss a run at batch B (tokens) takes S steps and E = S B tokens. Over batch sizes these lie on a hyperbola
(McCandlish et al., arXiv 1812.06162; Kaplan et al., arXiv 2001.08361; Unraveling, arXiv 2403.06563):

    (S / S_min - 1) (E / E_min - 1) = 1,   or   S = S_min (1 + B_crit / B),   B_crit = E_min / S_min

and B_crit grows as the loss falls: B_crit(L) = B_star / L^(1 / alpha_B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t as student

from laws.curve import Floats, Ints
from laws.fitting.bootstrap import LEVEL
from laws.reading.run_folder import DEFAULT_LOSS, read_run, tokens_per_step
from settings import UserError


@dataclass(frozen=True, eq=False)
class BatchRun:
    """A run at one batch size: the losses [k] after `steps` [k] steps. The lr must not drop on the way."""

    batch_tokens: float
    steps: Ints
    loss: Floats

    def steps_to(self, loss: float) -> float | None:
        """Returns the step at which the loss was first this low, by a power law between losses; None if never."""
        steps, lowest = np.asarray(self.steps, dtype=np.float64), np.minimum.accumulate(self.loss)
        reached = np.nonzero(lowest <= loss)[0]
        if reached.size == 0 or reached[0] == 0:  # never, or before the first loss: there is nothing to interpolate
            return None
        after = int(reached[0])
        share = (np.log(lowest[after - 1]) - np.log(loss)) / (np.log(lowest[after - 1]) - np.log(lowest[after]))
        return float(np.exp(np.log(steps[after - 1]) + share * np.log(steps[after] / steps[after - 1])))


def read_batch_run(path: Path, *, loss: str = DEFAULT_LOSS) -> BatchRun:
    """Reads a run folder as a run of one batch size, the median of its tokens a step. Raises UserError."""
    if not path.is_dir():
        raise UserError(f"{path} is no run folder")
    curve = read_run(path, loss=loss).curve
    return BatchRun(tokens_per_step(path), curve.steps, curve.loss)


@dataclass(frozen=True)
class CriticalBatch:
    """The hyperbola of one loss, and the 90% interval of the critical batch."""

    loss: float
    least_steps: float
    least_tokens: float
    batch_tokens: float
    interval: tuple[float, float]


def critical_batch(runs: Sequence[BatchRun], loss: float) -> CriticalBatch:
    """Fits the hyperbola of one loss by least squares on log S; the interval follows from the residuals (Student's t).

    Raises UserError where fewer than three batch sizes reach the loss, or all are on one side of the hyperbola's bend.
    """
    points = [(run.batch_tokens, run.steps_to(loss)) for run in runs]
    batch_r = np.array([batch for batch, steps in points if steps is not None], dtype=np.float64)
    steps_r = np.array([steps for _, steps in points if steps is not None])
    if np.unique(batch_r).size < 3:
        raise UserError(
            f"the loss {loss:.4g} is reached (not at once) at {np.unique(batch_r).size} batch sizes; the critical "
            "batch needs at least 3: take a higher loss, or train longer"
        )

    def residual(search: Floats) -> Floats:
        found: Floats = search[0] + np.log1p(np.exp(search[1]) / batch_r) - np.log(steps_r)
        return found

    start = np.array([np.log(steps_r.min() / 2), np.log(np.median(batch_r))])
    limits = (np.log(batch_r.min()) - 12, np.log(batch_r.max()) + 12)
    found = least_squares(residual, start, bounds=([-np.inf, limits[0]], [np.inf, limits[1]]), xtol=1e-12, ftol=1e-12)
    log_steps, log_batch = (float(x) for x in found.x)
    if not batch_r.min() / 30 < np.exp(log_batch) < batch_r.max() * 30:
        side = "all far above" if np.exp(log_batch) < batch_r.min() else "all far below"
        raise UserError(
            f"the batch sizes {batch_r.min():.3g} to {batch_r.max():.3g} tokens are {side} the critical one, which "
            "they therefore cannot tell; add runs on the other side"
        )
    freedom = batch_r.size - 2
    variance = 2 * found.cost / freedom
    slope = np.asarray(found.jac, dtype=np.float64)
    covariance = np.linalg.inv(slope.T @ slope) * variance
    reach = float(student.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(covariance[1, 1]))
    batch = float(np.exp(log_batch))
    return CriticalBatch(
        loss=loss,
        least_steps=float(np.exp(log_steps)),
        least_tokens=float(np.exp(log_steps)) * batch,
        batch_tokens=batch,
        interval=(float(np.exp(log_batch - reach)), float(np.exp(log_batch + reach))),
    )


def batch_over_loss(found: Sequence[CriticalBatch]) -> tuple[float, float]:
    """Returns (B_star, alpha_B) of B_crit(L) = B_star / L^(1 / alpha_B), least squares in logarithms.

    Raises UserError for fewer than two losses, or where the critical batch does not grow as the loss falls.
    """
    if len({point.loss for point in found}) < 2:
        raise UserError("the critical batch as a function of the loss needs at least 2 losses")
    slope, offset = np.polyfit(np.log([p.loss for p in found]), np.log([p.batch_tokens for p in found]), 1)
    if slope >= 0:
        raise UserError(
            "in these runs the critical batch does not grow as the loss falls; the law B*/L^(1/a) is not met"
        )
    return float(np.exp(offset)), float(-1 / slope)
