"""Cross-validation over runs: each group of runs is forecast by a fit to all the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from laws.curve import LossCurve
from laws.fitting.fitted import fit_curves
from laws.law import CurveLaw
from settings import UserError


@dataclass(frozen=True)
class LeftOut:
    """The last loss of a run that took no part in the fit, and its forecast with the 90% interval."""

    name: str
    fact: float
    forecast: float
    low: float
    high: float
    curve_error: float  # mean relative error of all losses after the warm-up

    @property
    def error(self) -> float:
        """Fact / forecast - 1."""
        return self.fact / self.forecast - 1

    @property
    def is_inside(self) -> bool:
        """True if the fact lies in the interval."""
        return self.low <= self.fact <= self.high


def leave_out_each(
    law: CurveLaw, curves: Sequence[LossCurve], groups: Sequence[str], *, samples: int = 50
) -> Iterator[LeftOut | str]:
    """Yields the forecast of every run from all runs of other groups; or a line that says why there is none.

    `groups`: the name of each curve's group, such as its rung: runs that differ in their seed are left out together.
    """
    for group in dict.fromkeys(groups):
        kept = [curve for curve, name in zip(curves, groups, strict=True) if name != group]
        try:
            fit = fit_curves(law, kept, samples=samples)
        except UserError as error:
            yield f"without {group} there is no fit: {error}"
            continue
        for curve in (each for each, name in zip(curves, groups, strict=True) if name == group):
            points = curve.after_warmup()
            forecast_k = fit.predict(points)
            low_k, high_k = fit.band(points)
            yield LeftOut(
                curve.name,
                fact=float(points.loss[-1]),
                forecast=float(forecast_k[-1]),
                low=float(low_k[-1]),
                high=float(high_k[-1]),
                curve_error=float(np.mean(np.abs(points.loss / forecast_k - 1))),
            )
