"""The time of a fit of the annealing law, against plain L-BFGS-B with finite differences from a grid of starts.

Both start from the lr of every step of three curves and end with the four parameters. Single-threaded.

    OMP_NUM_THREADS=1 python benchmarks/bench_law_fit.py [--loss-curves DIR] [--repeats N]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from laws.curve import EvaluationPoints, LossCurve, planned_lr_curve
from laws.fitting.solver import HUBER_DELTA, fit_points
from laws.loss_curves.annealing import AnnealingConfig
from laws.reading.curves import read_curve
from schedules.base import SCHEDULES

TRUTH = {"L0": 2.789, "A": 0.593, "C": 0.481, "alpha": 0.455}
# The grid and the tolerances of the authors' script (arXiv 2408.11029).
GRID = ((0.1, 2.1), (1.0, 11.5, 22.0), (1.0, 11.5, 22.0), (0.0, 0.4, 0.8))
OPTIONS = {"ftol": 1e-9, "gtol": 1e-6, "eps": 1e-8}


def made_curves() -> list[LossCurve]:
    """Makes three curves of 24,000 steps and 500 losses in all, from the law and noise of a thousandth."""
    rng = np.random.default_rng(0)
    curves = []
    for name, losses in (("cosine", 167), ("constant", 167), ("wsd", 166)):
        section: dict[str, object] = {"name": name, "warmup_steps": 2160}
        if name != "constant":
            section["min_lr"] = 3e-5
        schedule = planned_lr_curve(SCHEDULES.parse(section), peak_lr=3e-4, total_steps=24000)
        points = EvaluationPoints(schedule, np.linspace(2176, 24000, losses).astype(np.int64))
        loss = AnnealingConfig().predict(TRUTH, points) * np.exp(1e-3 * rng.normal(size=losses))
        curves.append(LossCurve(schedule, points.steps, loss=loss, name=name))
    return curves


def public_curves(folder: Path) -> list[LossCurve]:
    """Reads the three curves of the 100M model to which laws are fitted."""
    names = ("cosine_24000", "constant_24000", "wsdcon_9")
    return [read_curve(folder / "100M" / f"{name}.csv", warmup_steps=2160).curve for name in names]


def plain_fit(curves: list[LossCurve]) -> float:
    """Returns the objective at the best of 54 starts."""
    features = AnnealingConfig().features(curves)
    s1_n, s2_n = features.s1_n, features.s2_n
    log_loss_n = np.log(np.concatenate([curve.loss for curve in curves]))

    def objective(theta: np.ndarray) -> float:
        l0, a, c, alpha = theta
        predicted_n = l0 + a * s1_n**-alpha - c * s2_n
        size_n = np.abs(np.log(np.maximum(predicted_n, 1e-9)) - log_loss_n)
        inside_n = size_n <= HUBER_DELTA
        return float(np.where(inside_n, 0.5 * size_n**2, HUBER_DELTA * (size_n - 0.5 * HUBER_DELTA)).sum())

    return float(
        min(
            minimize(objective, start, method="L-BFGS-B", bounds=[(0, None)] * 4, options=OPTIONS).fun
            for start in itertools.product(*GRID)
        )
    )


def lehr_fit(curves: list[LossCurve]) -> float:
    """Returns the objective of the fit that `lehr law fit` makes."""
    law = AnnealingConfig()
    loss_n = np.concatenate([curve.loss for curve in curves])
    return fit_points(law, law.features(curves), loss_n).objective


def timed(fit: Callable[[list[LossCurve]], float], curves: list[LossCurve], repeats: int) -> tuple[float, float]:
    """Returns (median seconds, objective)."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        objective = fit(curves)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), objective


def main() -> None:
    """Reads the arguments and runs the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss-curves", type=Path, help="also fits the public loss curves of this folder")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    np.seterr(all="ignore")  # the plain fit tries values at which powers overflow
    lehr_fit(made_curves())  # the first call imports modules
    compare("made by the law, noise of a thousandth", made_curves(), arguments.repeats)
    if arguments.loss_curves is not None:
        compare("public, 100M parameters", public_curves(arguments.loss_curves), arguments.repeats)


def compare(what: str, curves: list[LossCurve], repeats: int) -> None:
    """Prints both times, their ratio, and both objectives."""
    lehr_seconds, lehr = timed(lehr_fit, curves, 5 * repeats)
    plain_seconds, plain = timed(plain_fit, curves, repeats)
    print(f"{len(curves)} curves ({what}), {sum(curve.loss.size for curve in curves)} losses")
    print(f"lehr   {1e3 * lehr_seconds:9.2f} ms   objective {lehr:.9e}")
    print(f"plain  {1e3 * plain_seconds:9.2f} ms   objective {plain:.9e}")
    print(f"ratio  {plain_seconds / lehr_seconds:9.1f}      objective lehr / plain - 1 = {lehr / plain - 1:.1e}")


if __name__ == "__main__":
    main()
