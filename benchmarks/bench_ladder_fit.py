"""The time of a fit of the law `joint` on 18 curves, against scipy from many starts with finite differences.

Both begin with the lr of every step of 18 curves and end with the parameters of the same objective. Single-threaded.

    OMP_NUM_THREADS=1 python benchmarks/bench_ladder_fit.py [--ladder DIR] [--repeats N]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from ladder_data import PARAMETERS, read_ladder
from made_ladder import JOINT, TRUE_JOINT, run
from scipy.optimize import minimize

from laws.curve import Floats, LossCurve
from laws.fitting.solver import HUBER_DELTA, PRIOR_STRENGTH, fit_points
from laws.loss_curves.joint import JointConfig


def made_curves() -> list[LossCurve]:
    """Makes 18 cosines of three sizes by the law, with noise of a thousandth."""
    lengths, sizes = (1000, 2000, 2500, 4000, 10000, 20000), (2e7, 6e7, 2e8)
    return [run(JOINT, TRUE_JOINT, steps, size, noise=1e-3) for size in sizes for steps in lengths]


def lehr_fit(curves: list[LossCurve]) -> float:
    """Returns the objective of the fit that `lehr law fit` makes, without the bootstrap."""
    law = JointConfig().suited(curves)
    return fit_points(law, law.features(curves), np.concatenate([curve.loss for curve in curves])).objective


def plain_fit(curves: list[LossCurve], *, number: int) -> float:
    """Returns the objective at the best of some starts: L-BFGS-B with finite differences, in the same coordinates."""
    law = JointConfig().suited(curves)
    features, shapes = law.features(curves), law.shapes()
    count = len(law.coefficients())
    log_loss_n = np.log(np.concatenate([curve.loss for curve in curves]))
    log_p = np.array([False] * count + [shape.log for shape in shapes])

    def objective(search: Floats) -> float:
        theta = np.where(log_p, np.exp(np.where(log_p, search, 0.0)), search)
        predicted_n = law.evaluate(theta[None], features)[0][0]
        size_n = np.abs(np.log(np.maximum(predicted_n, 1e-9)) - log_loss_n)
        inside_n = size_n <= HUBER_DELTA
        huber_n = np.where(inside_n, 0.5 * size_n**2, HUBER_DELTA * (size_n - 0.5 * HUBER_DELTA))
        prior = sum(
            PRIOR_STRENGTH * ((value - shape.prior[0]) / shape.prior[1]) ** 2
            for value, shape in zip(search[count:], shapes, strict=True)
            if shape.prior is not None
        )
        return float(huber_n.sum() + prior)

    bounds: list[tuple[float, float | None]] = [(0.0, None)] * count
    bounds += [(np.log(s.lower), np.log(s.upper)) if s.log else (s.lower, s.upper) for s in shapes]
    grids = [[np.log(x) if s.log else x for x in s.grid] for s in shapes]
    points = list(itertools.product(*grids))
    starts = [points[i] for i in np.random.default_rng(0).permutation(len(points))[:number]]
    options = {"maxiter": 2000, "maxfun": 10**6, "ftol": 1e-12, "gtol": 1e-9}
    return min(
        float(minimize(objective, [1.5, 1.0, 0.2, 0.01, *start], method="L-BFGS-B", bounds=bounds, options=options).fun)
        for start in starts
    )


def timed(fit: Callable[[list[LossCurve]], float], curves: list[LossCurve], repeats: int) -> tuple[float, float]:
    """Returns the median CPU seconds of a fit, and its objective."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        objective = fit(curves)
        seconds.append(time.process_time() - started)
    return float(np.median(seconds)), objective


def main() -> None:
    """Reads the arguments and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", type=Path, help="the folder of a published ladder's curves")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--starts", type=int, default=8, help="of the plain fit")
    arguments = parser.parse_args()
    cases = {"made by the law": made_curves()}
    if arguments.ladder is not None:
        ladder = read_ladder(arguments.ladder)
        runs = [
            (size, horizon) for size in PARAMETERS for horizon in ("0.5xC", "1xC", "1xC-rerun", "2xC", "5xC", "10xC")
        ]
        cases["published ladder"] = [ladder[size, horizon, "c4_en"] for size, horizon in runs]
    print("| 18 curves | losses | lehr, CPU s | plain, CPU s | ratio | objective, lehr / plain - 1 |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, curves in cases.items():
        mine, objective = timed(lehr_fit, curves, arguments.repeats)
        plain, plain_objective = timed(partial(plain_fit, number=arguments.starts), curves, 1)
        losses = sum(curve.loss.size for curve in curves)
        difference = objective / plain_objective - 1
        print(f"| {name} | {losses} | {mine:.2f} | {plain:.1f} | {plain / mine:.0f} | {difference:+.1e} |", flush=True)


if __name__ == "__main__":
    main()
