"""Measures how far laws miss last losses of runs outside their fit: the constants of laws/fitting/law_error.py.

The curves of each model (25M and 100M of arXiv 2503.12811's authors; a ladder of 190M, 370M and 760M) are fitted alone,
in twos and in threes, and the other curves' last losses are predicted. The constants are those of the least mean
interval score of the 90% bands (Gneiting and Raftery 2007, section 6.2): width + 20 times what lies outside, in log
loss, with equal weights for the models. They are chosen on all models but one, and scored on that one, in turn.

    OMP_NUM_THREADS=1 python benchmarks/bench_law_error.py --loss-curves DIR --ladder DIR [--misses FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laws.curve import Floats, LossCurve, last_step
from laws.fitting.bootstrap import LEVEL
from laws.fitting.fitted import LAW_ERROR, fit_curves, normal_quantile
from laws.fitting.law_error import LONE_SHAPE, lr_shape
from laws.law import DEFAULT_LAW, LAWS, CurveLaw
from laws.reading.csv_file import lr_from_rows
from laws.reading.curves import read_curve
from settings import UserError

WARMUP_STEPS = 2160  # of the 25M and 100M runs
LADDER_PARAMETERS = {"190M": 190354176, "370M": 371262464, "760M": 758220288}  # their tokens are the warm-up
BASES = np.geomspace(0.0005, 0.004, 25)
HORIZONS = np.linspace(0, 4, 17)
LONE_SHAPES = np.linspace(0, 10, 21)


@dataclass(frozen=True)
class Miss:
    """A last loss that was predicted by a fit of other runs of the same model."""

    model: str
    fitted: int
    miss: float  # log fact - log prediction
    below: float  # half-widths of the band by the parameters alone, in log loss
    above: float
    noise: float
    beyond: float  # log(step / longest fitted step), at least 0
    distance: float  # of the schedules' shapes, for a lone curve; else 0


def public_models(folder: Path) -> dict[str, list[LossCurve]]:
    """Reads the nine curves of both models."""
    return {
        size: [read_curve(path, warmup_steps=WARMUP_STEPS).curve for path in sorted((folder / size).glob("*.csv"))]
        for size in ("25M", "100M")
    }


def ladder_models(folder: Path, loss: str) -> dict[str, list[LossCurve]]:
    """Reads the six curves of each size of the ladder."""
    found: dict[str, list[LossCurve]] = {}
    for size, parameters in LADDER_PARAMETERS.items():
        for path in sorted(folder.glob(f"{size}-*.csv")):
            rows = np.genfromtxt(path, delimiter=",", names=True)
            steps = rows["step"].astype(np.int64)
            warmup = round(parameters / float(rows["batch_tokens"][0]))
            schedule = lr_from_rows(steps, rows["lr"], total_steps=int(steps[-1]), warmup_steps=warmup)
            keep = np.isfinite(rows[loss])
            found.setdefault(size, []).append(LossCurve(schedule, steps[keep], loss=rows[loss][keep], name=path.stem))
    return found


def misses(law: CurveLaw, model: str, curves: Sequence[LossCurve], *, choices: int, samples: int) -> Iterator[Miss]:
    """Yields the last losses of all curves but the fitted ones: lone curves, and `choices` of twos and of threes."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 3):
        every = list(itertools.combinations(range(len(curves)), size))
        chosen = every if size == 1 else [every[i] for i in rng.permutation(len(every))[:choices]]
        for numbers in chosen:
            used = [curves[i] for i in numbers]
            try:
                fit = fit_curves(law, used, samples=samples)
            except UserError:
                continue  # constant curves only
            exact = fit.model_copy(update={"law_error": 0.0, "noise": 0.0})
            for other in (curve for i, curve in enumerate(curves) if i not in numbers):
                end = last_step(other.schedule)
                predicted = float(fit.predict(end)[0])
                (low,), (high,) = exact.band(end)
                shapes = [lr_shape(curve.schedule, int(curve.steps[-1])) for curve in (*used, other)]
                distance = float(np.sqrt(((shapes[0] - shapes[1]) ** 2).mean())) if size == 1 else 0.0
                beyond = float(np.log(end.steps[0] / max(int(curve.steps[-1]) for curve in used)))
                yield Miss(
                    model,
                    size,
                    float(np.log(other.loss[-1] / predicted)),
                    float(np.log(predicted / low)),
                    float(np.log(high / predicted)),
                    fit.noise,
                    max(beyond, 0.0),
                    distance,
                )


class Table:
    """The misses as columns."""

    def __init__(self, found: Sequence[Miss]) -> None:
        self.models = np.array([miss.model for miss in found])
        self.fitted = np.array([miss.fitted for miss in found])
        self.miss = np.array([miss.miss for miss in found])
        self.spread = np.array([miss.above if miss.miss > 0 else miss.below for miss in found])
        self.both = np.array([(miss.below, miss.above) for miss in found]).T
        self.noise = np.array([miss.noise for miss in found])
        self.beyond = np.array([miss.beyond for miss in found])
        self.distance = np.array([miss.distance for miss in found])

    def half_widths(self, constants: tuple[float, float, float]) -> tuple[Floats, Floats]:
        """Returns the band below and above the prediction."""
        base, horizon, lone = constants
        missed = base**2 * (1 + (horizon * self.beyond) ** 2 + (lone * self.distance) ** 2)
        lean = (self.noise**2 + missed) * normal_quantile(LEVEL) ** 2
        below, above = np.sqrt(self.both**2 + lean)
        return below, above

    def held(self, constants: tuple[float, float, float]) -> np.ndarray:
        """Returns which bands hold the fact."""
        below, above = self.half_widths(constants)
        return (-below <= self.miss) & (self.miss <= above)

    def score(self, constants: tuple[float, float, float]) -> Floats:
        """Returns the interval score of each."""
        below, above = self.half_widths(constants)
        outside = np.maximum(self.miss - above, 0) + np.maximum(-below - self.miss, 0)
        total: Floats = below + above + 2 / (1 - LEVEL) * outside
        return total


def chosen(table: Table, models: Sequence[str]) -> tuple[float, float, float]:
    """Returns the constants of the least mean score, with equal weights for the models."""
    groups = [table.models == model for model in models]

    def mean_score(constants: tuple[float, float, float]) -> float:
        score = table.score(constants)
        return float(np.mean([score[group].mean() for group in groups]))

    return min(itertools.product(BASES, HORIZONS, LONE_SHAPES), key=mean_score)


def report(table: Table) -> None:
    """Prints the shares held by constants that were chosen on the other models, and by those of the code."""
    models = list(dict.fromkeys(table.models.tolist()))
    print("| scored on | last losses | constants of the others | held | lone | twos | threes | constants of lehr |")
    print("|---|---|---|---|---|---|---|---|")
    code, all_held = (LAW_ERROR, CurveLaw.error_by_horizon, LONE_SHAPE), np.zeros(table.models.size, dtype=bool)
    for model in models:
        group = table.models == model
        constants = chosen(table, [other for other in models if other != model])
        held = table.held(constants)
        all_held[group] = held[group]
        parts = [share(held[group & (table.fitted == size)]) for size in (1, 2, 3)]
        values = "{:.2f}%, {:.2f}, {:.1f}".format(100 * constants[0], *constants[1:])
        row = (model, str(int(group.sum())), values, share(held[group]), *parts, share(table.held(code)[group]))
        print("| " + " | ".join(row) + " |")
    parts = [share(all_held[table.fitted == size]) for size in (1, 2, 3)]
    row = ("all", str(all_held.size), "", share(all_held), *parts, share(table.held(code)))
    print("| " + " | ".join(row) + " |")
    print("\nChosen on all models: {:.3f}%, {:.2f}, {:.1f}".format(*np.multiply(chosen(table, models), (100, 1, 1))))


def share(held: np.ndarray) -> str:
    """Returns a share in percent."""
    return f"{100 * held.mean():.0f}%" if held.size else "-"


def main() -> None:
    """Reads the arguments, collects the misses (or reads them) and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss-curves", type=Path, help="the folder of the public curves")
    parser.add_argument("--ladder", type=Path, help="the folder of the ladder's curves")
    parser.add_argument("--ladder-loss", default="c4_en", help="the column of its loss")
    parser.add_argument("--law", default=DEFAULT_LAW)
    parser.add_argument("--choices", type=int, default=12, help="of twos and of threes, for each model")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--misses", type=Path, help="a JSON file, written after the fits and read if it exists")
    arguments = parser.parse_args()
    if arguments.misses is not None and arguments.misses.is_file():
        found = [Miss(**plain) for plain in json.loads(arguments.misses.read_text())]
    else:
        models: Mapping[str, list[LossCurve]] = {
            **(public_models(arguments.loss_curves) if arguments.loss_curves else {}),
            **(ladder_models(arguments.ladder, arguments.ladder_loss) if arguments.ladder else {}),
        }
        if not models:
            print("needs --loss-curves or --ladder")
            return
        found = []
        for model, curves in models.items():
            law = LAWS.parse(arguments.law)
            found += misses(law, model, curves, choices=arguments.choices, samples=arguments.samples)
        if arguments.misses is not None:
            arguments.misses.write_text(json.dumps([dataclasses.asdict(miss) for miss in found]))
    report(Table(found))


if __name__ == "__main__":
    main()
