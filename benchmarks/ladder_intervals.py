"""The intervals of forecasts on a ladder: the constants of the law's error by nested choice, and the share held."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from ladder_data import COLUMNS, PARAMETERS

from laws.curve import Floats
from laws.fitting.bootstrap import LEVEL
from laws.fitting.fitted import normal_quantile

BASES = np.geomspace(0.0005, 0.01, 27)
BY_HORIZON = np.linspace(0, 4, 17)
BY_SIZE = np.linspace(0, 4, 17)
Constants = tuple[float, float, float]


@dataclass(frozen=True)
class Forecast:
    """A last loss that a fit of other runs forecast, with the band of its parameters alone."""

    law: str
    split: str
    size: str
    horizon: str
    column: str
    miss: float  # log fact - log forecast
    fact: float  # log loss
    below: float = 0.0  # half-widths in log loss
    above: float = 0.0
    noise: float = 0.0
    beyond: float = 0.0  # log (step / longest fitted step), at least 0
    apart: float = 0.0  # log (size / nearest fitted size)
    whole: float | None = None  # mean |error| of the whole curve


class Bands:
    """The forecasts of one law as columns."""

    def __init__(self, forecasts: Sequence[Forecast]) -> None:
        self.size = np.array([each.size for each in forecasts])
        self.column = np.array([each.column for each in forecasts])
        self.run = np.array([f"{each.size}-{each.horizon}" for each in forecasts])
        self.split = np.array([each.split for each in forecasts])
        self.miss, self.noise, self.beyond, self.apart = (
            np.array([getattr(each, name) for each in forecasts]) for name in ("miss", "noise", "beyond", "apart")
        )
        self.both = np.array([(each.below, each.above) for each in forecasts]).T

    def half_widths(self, constants: Constants) -> Floats:
        """Returns the band below and above each forecast [2, f]."""
        base, by_horizon, by_size = constants
        missed = base**2 * (1 + (by_horizon * self.beyond) ** 2 + (by_size * self.apart) ** 2)
        found: Floats = np.sqrt(self.both**2 + (self.noise**2 + missed) * normal_quantile(LEVEL) ** 2)
        return found

    def held(self, constants: Constants) -> np.ndarray:
        """Returns which bands hold the fact [f]."""
        below, above = self.half_widths(constants)
        return (-below <= self.miss) & (self.miss <= above)

    def score(self, constants: Constants) -> Floats:
        """Returns the interval score of each (Gneiting and Raftery 2007, section 6.2), in log loss [f]."""
        below, above = self.half_widths(constants)
        outside = np.maximum(self.miss - above, 0) + np.maximum(-below - self.miss, 0)
        found: Floats = below + above + 2 / (1 - LEVEL) * outside
        return found

    def chosen(self, among: np.ndarray) -> Constants:
        """Returns the constants of the least mean score over some of the forecasts."""
        sizes = BY_SIZE if self.apart[among].any() else np.zeros(1)
        part = copy(self)
        for name, values in vars(self).items():
            setattr(part, name, values[..., among])
        every = itertools.product(BASES, BY_HORIZON, sizes)
        return min(every, key=lambda constants: float(part.score(constants).mean()))


def report_intervals(forecasts: Sequence[Forecast]) -> None:
    """Prints the shares held by constants chosen on other sizes and columns, and the constants of all."""
    print("\n| law | forecasts | held (nested) | within the lengths | longer | other size | score | in-sample |")
    print("|---|---|---|---|---|---|---|---|")
    for law in dict.fromkeys(each.law for each in forecasts):
        bands = Bands([each for each in forecasts if each.law == law])
        held, score = np.zeros(bands.miss.size, dtype=bool), np.zeros(bands.miss.size)
        for size, column in itertools.product(PARAMETERS, COLUMNS):
            constants = bands.chosen((bands.size != size) & (bands.column != column))
            part = (bands.size == size) & (bands.column == column)
            held[part], score[part] = bands.held(constants)[part], bands.score(constants)[part]
        every = bands.chosen(np.ones(bands.miss.size, dtype=bool))
        groups = [(bands.beyond == 0) & (bands.apart == 0), bands.beyond > 0, bands.apart > 0]
        cells = [f"{share(held)} ± {100 * clustered_error(held, bands.run):.0f}%"]
        cells += [f"{share(held[group])} of {int(group.sum())}" for group in groups]
        cells += [f"{100 * score.mean():.2f}%", share(bands.held(every))]
        print("| " + " | ".join([law, str(held.size), *cells]) + " |")
        print(f"\n{law}: constants of all {100 * every[0]:.3f}%, {every[1]:.2f}, {every[2]:.2f}\n")


def clustered_error(held: np.ndarray, run: np.ndarray) -> float:
    """Returns the standard error of a share whose forecasts are clustered by the run that was forecast."""
    sums = np.array([(held[run == name] - held.mean()).sum() for name in np.unique(run)])
    return float(np.sqrt((sums**2).sum()) / held.size)


def share(held: np.ndarray) -> str:
    """Returns a share in percent."""
    return f"{100 * held.mean():.0f}%" if held.size else "-"
