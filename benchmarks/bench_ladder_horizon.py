"""Chooses the constants of the law `horizon` by nested choices, and scores it (benchmarks/ladder_laws_protocol.md).

OMP_NUM_THREADS=1 python benchmarks/bench_ladder_horizon.py --ladder DIR
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from ladder_data import COLUMNS, LONG, PARAMETERS, SHORT, Ladder, read_ladder

from laws.curve import Floats, LossCurve
from laws.fitting.solver import fit_points
from laws.law import CurveLaw
from laws.loss_curves.horizon import HorizonConfig

SIZES = tuple(PARAMETERS)
GRID = tuple(
    HorizonConfig(early=gamma is not None, early_power=gamma or 1.5, rho=rho, level_power=level, beta_prior_width=width)
    for gamma, rho, level, width in itertools.product(
        (None, 1.0, 1.5, 2.0), (0.0, 0.1, 0.2), (0.6, 0.8), (0.02, 0.05, 0.1)
    )
)


def forecast_errors(law: CurveLaw, fitted: list[LossCurve], forecast: list[LossCurve]) -> Floats:
    """Returns log (prediction / fact) of the last loss and the mean |error| of the curve, of each forecast [f, 2]."""
    law = law.suited(fitted)
    found = fit_points(law, law.features(fitted), np.concatenate([curve.loss for curve in fitted]))
    errors = []
    for curve in forecast:
        predicted_n = law.evaluate(found.theta_p[None], law.features([curve]))[0][0]
        error_n = np.log(predicted_n / curve.loss)
        errors.append((error_n[-1], np.abs(error_n).mean()))
    return np.array(errors)


def errors_of(ladder: Ladder, law: CurveLaw, size: str, column: str) -> Floats:
    """Returns the errors of the long runs of one size and column, from its short runs [run, 2]."""
    short, long = ([ladder[size, run, column] for run in runs] for runs in (SHORT, LONG))
    return forecast_errors(law, short, long)


def all_errors(ladder: Ladder) -> Floats:
    """Returns the errors of every choice of constants [choice, size, column, run, 2]."""
    return np.array([
        [[errors_of(ladder, law, size, column) for column in COLUMNS] for size in SIZES] for law in GRID
    ])  # fmt: skip


def chosen(errors: Floats, sizes: list[int], columns: list[int]) -> int:
    """Returns the choice of the least score on some sizes and columns."""
    part = np.abs(errors[:, sizes][:, :, columns])
    return int(np.argmin(part.mean(axis=(1, 2, 3)).sum(axis=1)))


def described(law: HorizonConfig) -> str:
    """Returns the constants of a choice."""
    gamma = f"{law.early_power:g}" if law.early else "none"
    return f"{gamma}, {law.rho:g}, {law.level_power:g}, {law.beta_prior_width:g}"


def report(errors: Floats) -> None:
    """Prints nested errors of every column, and the choice on all of them."""
    print("| column | run | " + " | ".join(SIZES) + " | mean of sizes | whole curves |\n|---|---|" + "---|" * 5)
    nested = np.empty(errors.shape[1:])
    choices = {}
    for i, j in itertools.product(range(len(SIZES)), range(len(COLUMNS))):
        others = [k for k in range(len(SIZES)) if k != i], [k for k in range(len(COLUMNS)) if k != j]
        choices[i, j] = chosen(errors, *others)
        nested[i, j] = errors[choices[i, j], i, j]
    rows = [("nested", nested)]
    every = chosen(errors, list(range(len(SIZES))), list(range(len(COLUMNS))))
    rows.append(("in-sample", errors[every]))
    for kind, table in rows:
        for j, column in enumerate(COLUMNS):
            for r, run in enumerate(LONG):
                last = 100 * table[:, j, r, 0]
                cells = [f"{value:+.2f}%" for value in last]
                means = (f"{np.abs(last).mean():.2f}%", f"{100 * table[:, j, r, 1].mean():.2f}%")
                print("| " + " | ".join([f"{column}, {kind}", run, *cells, *means]) + " |")
    print("\nConstants (gamma, rho, q, width) by nested choice:")
    for (i, j), choice in choices.items():
        print(f"  {SIZES[i]}, {COLUMNS[j]}: {described(GRID[choice])}")
    print(f"Chosen on all: {described(GRID[every])}")


def main() -> None:
    """Reads the arguments and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", type=Path, required=True, help="the folder of the ladder's curves")
    report(all_errors(read_ladder(parser.parse_args().ladder)))


if __name__ == "__main__":
    main()
