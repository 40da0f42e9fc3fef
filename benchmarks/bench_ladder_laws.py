"""All laws on all splits of a published ladder, and the intervals of the new ones (benchmarks/ladder_laws_protocol.md).

Curve laws are fitted to whole curves after the warm-up, compute laws to last losses. A cell is the mean |error| of the
forecasts' last losses, over all columns or on c4_en. A law that cannot be fitted to a split is said to refuse it.

    OMP_NUM_THREADS=1 python benchmarks/bench_ladder_laws.py --ladder DIR [--loss-curves DIR] [--forecasts FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ladder_data import COLUMNS, LONG, PARAMETERS, SHORT, Ladder, read_ladder
from ladder_decisions import report_decisions
from ladder_intervals import Forecast, report_intervals

from laws.curve import LossCurve, last_step
from laws.fitting.fitted import fit_curves
from laws.law import LAWS, CurveLaw
from laws.loss_curves.joint import JointConfig
from laws.scaling.fit import fit_runs
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs
from settings import UserError

Run = tuple[str, str]  # size, horizon
SIZES = tuple(PARAMETERS)
RUNS = (*SHORT, *LONG)
SAMPLES = 50
NEW, JOINT = ("horizon", "joint"), "joint, k = 1"
EVERY_LAW = (
    "annealing",
    "multi_power",
    "relaxation",
    *NEW,
    JOINT,
    "power_constant",
    "chinchilla",
    "skaling",
    "farseer",
)


@dataclass(frozen=True)
class Split:
    """Runs that are fitted, and runs that are forecast from them."""

    name: str
    fitted: tuple[Run, ...]
    forecast: tuple[Run, ...]


def of_sizes(sizes: Sequence[str], horizons: Sequence[str]) -> tuple[Run, ...]:
    """Returns the runs of some sizes and horizons."""
    return tuple((size, horizon) for size in sizes for horizon in horizons)


def splits_of_one_size(size: str) -> Iterator[Split]:
    """Yields the splits within a size."""
    for name, fitted in (("to 1xC", SHORT[:3]), ("to 2xC", SHORT), ("to 5xC", RUNS[:5]), ("1 to 5xC", RUNS[1:5])):
        rest = [run for run in RUNS if run not in fitted]
        yield Split(f"one size, {name}", of_sizes([size], fitted), of_sizes([size], rest))
    yield Split("one size, from 2xC", of_sizes([size], RUNS[3:]), of_sizes([size], RUNS[:3]))
    for left in RUNS[:5]:
        yield Split("one size, one left out", of_sizes([size], [r for r in RUNS if r != left]), ((size, left),))


def splits_over_sizes() -> Iterator[Split]:
    """Yields the splits of the law `joint`."""
    yield Split("longer", of_sizes(SIZES, SHORT), of_sizes(SIZES, LONG))
    yield Split("larger", of_sizes(SIZES[:2], RUNS), of_sizes(SIZES[2:], RUNS))
    yield Split("larger and longer", of_sizes(SIZES[:2], SHORT), of_sizes(SIZES[2:], LONG))
    yield Split("smaller", of_sizes(SIZES[1:], RUNS), of_sizes(SIZES[:1], RUNS))
    every = of_sizes(SIZES, RUNS)
    for left in every:
        yield Split("each run left out", tuple(run for run in every if run != left), (left,))


def curve_forecasts(law: CurveLaw, split: Split, ladder: Ladder, column: str, samples: int) -> Iterator[Forecast]:
    """Yields the forecasts of the last losses. Raises UserError if the law cannot be fitted."""
    fitted = [ladder[size, horizon, column] for size, horizon in split.fitted]
    fit = fit_curves(law, fitted, samples=samples)
    exact = fit.model_copy(update={"law_error": 0.0, "noise": 0.0})
    for size, horizon in split.forecast:
        curve = ladder[size, horizon, column]
        end = last_step(curve.schedule, parameters=curve.parameters, batch_tokens=curve.batch_tokens)
        predicted = float(fit.predict(end)[0])
        (low,), (high,) = exact.band(end)
        whole = float(np.abs(np.log(fit.predict(curve) / curve.loss)).mean())
        yield Forecast(
            law=label(law),
            split=split.name,
            size=size,
            horizon=horizon,
            column=column,
            miss=float(np.log(curve.loss[-1] / predicted)),
            fact=float(np.log(curve.loss[-1])),
            below=float(np.log(predicted / low)),
            above=float(np.log(high / predicted)),
            noise=fit.noise,
            beyond=max(0.0, float(np.log(curve.steps[-1] / max(each.steps[-1] for each in fitted)))),
            apart=beyond_sizes(curve, fitted),
            whole=whole,
        )


def beyond_sizes(curve: LossCurve, fitted: Sequence[LossCurve]) -> float:
    """Returns the logarithm of the size over the nearest fitted one, 0 within the sizes of the fit."""
    sizes = [each.parameters or 1.0 for each in fitted]
    size = curve.parameters or 1.0
    return max(0.0, float(np.log(size / max(sizes))), float(np.log(min(sizes) / size)))


def compute_forecasts(law: ComputeLaw, split: Split, ladder: Ladder, column: str) -> Iterator[Forecast]:
    """Yields the forecasts of a compute law from last losses. Raises UserError if it cannot be fitted."""
    fit = fit_runs(law, last_losses([ladder[size, horizon, column] for size, horizon in split.fitted]), samples=0)
    for size, horizon in split.forecast:
        runs = last_losses([ladder[size, horizon, column]])
        predicted, _, _ = fit.predict(parameters=runs.parameters[0], tokens=runs.tokens[0])
        miss = float(np.log(runs.loss[0] / predicted))
        yield Forecast(label(law), split.name, size, horizon, column, miss, float(np.log(runs.loss[0])))


def last_losses(curves: Sequence[LossCurve]) -> Runs:
    """Returns the last losses of some curves as runs."""
    columns = [(c.parameters, float(c.steps[-1]) * (c.batch_tokens or 1.0), c.loss[-1], c.batch_tokens) for c in curves]
    return Runs(*(np.array(column, dtype=np.float64) for column in zip(*columns, strict=True)))


def label(law: CurveLaw | ComputeLaw) -> str:
    """Returns the name in the tables."""
    return JOINT if law == JointConfig(interaction=False) else law.name


def all_forecasts(ladder: Ladder, columns: Sequence[str], laws: Sequence[str]) -> Iterator[Forecast]:
    """Yields the forecasts of the chosen laws, and prints what was refused; all but the new laws on c4_en only."""
    refused: set[str] = set()
    for column, name in itertools.product(columns, laws):
        first = column == COLUMNS[0]
        if not first and name not in NEW:
            continue
        if name in COMPUTE_LAWS.names():
            for split in splits_over_sizes():
                try:
                    yield from compute_forecasts(COMPUTE_LAWS.parse(name), split, ladder, column)
                except UserError as error:
                    refused.add(f"{split.name}, {name}: {error}")
        elif name in (JOINT, "joint"):
            law = JointConfig(interaction=name != JOINT)
            for split in splits_over_sizes():
                if first or split.name != "each run left out":
                    yield from curve_forecasts(law, split, ladder, column, SAMPLES if law.interaction else 0)
        else:
            for split in (split for size in SIZES for split in splits_of_one_size(size)):
                yield from curve_forecasts(LAWS.parse(name), split, ladder, column, SAMPLES if name in NEW else 0)
    print("Refused:\n" + "".join(f"- {line}\n" for line in sorted(refused)))


def report_table(forecasts: Sequence[Forecast]) -> None:
    """Prints the mean |error| of last losses, by law and split."""
    groups: dict[tuple[str, str], list[Forecast]] = {}
    for forecast in forecasts:
        groups.setdefault((forecast.split, forecast.law), []).append(forecast)
    print("| split | law | forecasts | c4_en | all columns | worst | mean miss | whole curves | skill |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (split, law), group in groups.items():
        miss, c4 = np.array([f.miss for f in group]), np.array([f.miss for f in group if f.column == "c4_en"])
        cells = [f"{100 * np.abs(part).mean():.2f}%" if part.size else "-" for part in (c4, miss)]
        cells += [f"{100 * np.abs(miss).max():.2f}%", f"{100 * miss.mean():+.2f}%"]
        whole = [f.whole for f in group if f.whole is not None]
        cells.append(f"{100 * np.mean(whole):.2f}%" if whole else "-")
        cells.append(f"{np.abs(miss).mean() / spread(group):.2f}")
        print("| " + " | ".join([split, law, str(len(group)), *cells]) + " |")


def spread(group: Sequence[Forecast]) -> float:
    """Returns the standard deviation of the forecast losses, in logarithms, on average over columns."""
    columns: dict[str, list[float]] = {}
    for forecast in group:
        columns.setdefault(forecast.column, []).append(forecast.fact)
    return float(np.mean([np.std(facts) for facts in columns.values()]))


def main() -> None:
    """Reads the arguments, makes the forecasts (or reads them) and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", type=Path, required=True, help="the folder of the ladder's curves")
    parser.add_argument("--loss-curves", type=Path, help="the folder of the public curves, for decisions")
    parser.add_argument("--laws", nargs="+", default=EVERY_LAW, choices=EVERY_LAW)
    parser.add_argument("--columns", nargs="+", default=COLUMNS, choices=COLUMNS)
    parser.add_argument("--forecasts", type=Path, help="a JSON file, written after the fits and read if it exists")
    arguments = parser.parse_args()
    ladder = read_ladder(arguments.ladder)
    if arguments.forecasts is not None and arguments.forecasts.is_file():
        forecasts = [Forecast(**plain) for plain in json.loads(arguments.forecasts.read_text())]
    else:
        forecasts = list(all_forecasts(ladder, arguments.columns, arguments.laws))
        if arguments.forecasts is not None:
            arguments.forecasts.write_text(json.dumps([dataclasses.asdict(each) for each in forecasts]))
    report_table(forecasts)
    report_intervals([f for f in forecasts if f.law in ("horizon", "joint")])
    if arguments.loss_curves is not None:
        report_decisions(arguments.loss_curves)


if __name__ == "__main__":
    main()
