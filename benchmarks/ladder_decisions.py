"""Decisions between schedules: 25M runs and forecasts against 100M runs (arXiv 2503.12811's authors' curves)."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from laws.curve import LossCurve, last_step
from laws.fitting.decision import decision_accuracy, probability_lower
from laws.fitting.fitted import Fit, fit_curves
from laws.law import LAWS
from laws.reading.curves import read_curve

WARMUP_STEPS = 2160
FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
LENGTHS = {
    24000: ("cosine_24000", "constant_24000", "wsd_20000_24000", "wsdld_20000_24000"),
    72000: ("cosine_72000", "constant_72000"),
    16000: ("wsdcon_3", "wsdcon_9", "wsdcon_18"),
}


def report_decisions(folder: Path) -> None:
    """Prints how often 25M runs, and forecasts of 25M runs from three of them, order two schedules as 100M runs do."""
    small, large = (
        {
            name: read_curve(folder / size / f"{name}.csv", warmup_steps=WARMUP_STEPS).curve
            for names in LENGTHS.values()
            for name in names
        }
        for size in ("25M", "100M")
    )
    print("\n| length | pairs | 25M runs agree with 100M | skill |\n|---|---|---|---|")
    for steps, names in LENGTHS.items():
        found = decision_accuracy(
            *({name: float(curves[name].loss[-1]) for name in names} for curves in (small, large))
        )
        print(f"| {steps} | {found.pairs} | {found.agreed} | {found.skill:.2f} |")
    fit = fit_curves(LAWS.parse("relaxation"), [small[name] for name in FITTED], samples=200)
    pairs = [pair for names in LENGTHS.values() for pair in itertools.combinations(names, 2)]
    rows = [(pair, *decided(fit, small, large, pair)) for pair in pairs]
    agreed = np.array([right for _, _, right in rows])
    stated = np.array([chance for _, chance, _ in rows])
    print(
        f"\nForecasts of 25M from {', '.join(FITTED)}: {agreed.sum()} of {agreed.size} pairs as at 100M; their own "
        f"mean probability is {100 * stated.mean():.0f}%, of the {(~agreed).sum()} others {share(stated[~agreed])}."
    )
    for pair, chance, right in rows:
        print(f"  {pair[0]} and {pair[1]}: {100 * chance:.0f}%, {'as' if right else 'not as'} at 100M")


def share(chances: np.ndarray) -> str:
    """Returns the mean of probabilities in percent."""
    return f"{100 * chances.mean():.0f}%" if chances.size else "-"


def decided(
    fit: Fit, small: dict[str, LossCurve], large: dict[str, LossCurve], pair: tuple[str, str]
) -> tuple[float, bool]:
    """Returns the probability that the fit gives to its own order of two schedules, and whether it is that at 100M."""
    first, second = (last_step(small[name].schedule) for name in pair)
    chance = probability_lower(fit, first, second)
    facts = [large[name].loss[-1] for name in pair]
    return max(chance, 1 - chance), bool((chance > 0.5) == (facts[0] < facts[1]))
