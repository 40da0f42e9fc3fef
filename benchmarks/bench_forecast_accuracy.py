"""The accuracy of `train.forecast=auto` on public loss curves, over several ways to take the losses of an evaluation.

Of each curve of arXiv 2503.12811's authors (25M and 100M parameters, nine schedules each), 60 evenly spaced losses
stand for the evaluations of a run. Other ways begin at another share of the spacing, so they share few losses. At each
evaluation the run's own losses before it forecast its loss and the last one.

    OMP_NUM_THREADS=1 python benchmarks/bench_forecast_accuracy.py --loss-curves DIR [--ways 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laws.curve import LossCurve, LrCurve
from laws.forecasting.drift import DriftDetector
from laws.forecasting.prediction import Prediction, RunProgress
from laws.forecasting.refitted_forecast import RefittedForecast
from laws.law import DEFAULT_LAW, LAWS
from laws.reading.curves import read_curve

EVALUATIONS = 60
WARMUP_STEPS = 2160
SIZES = ("25M", "100M")


@dataclass(frozen=True)
class Outcome:
    """The forecasts of one run."""

    name: str
    first_share: float | None  # of the run, at the first forecast of the last loss
    first_error: float  # of that forecast, relative
    first_held: bool
    final_held: int
    finals: int
    next_held: int
    nexts: int
    flags: tuple[tuple[int, float], ...]  # step, and fact / forecast - 1


def taken(curve: LossCurve, share: float) -> LossCurve:
    """Returns evenly spaced losses of a curve, with the last one; the first lies at a share of the spacing."""
    spacing = (curve.steps.size - 1) / (EVALUATIONS - 1 + share)
    at = (curve.steps.size - 1 - spacing * np.arange(EVALUATIONS)[::-1]).round().astype(np.int64)
    return LossCurve(curve.schedule, curve.steps[at], loss=curve.loss[at], name=curve.name)


def watched(run: LossCurve) -> Outcome:
    """Returns how the run would have been forecast at each of its evaluations."""
    forecaster, detector = RefittedForecast(LAWS.parse(DEFAULT_LAW)), DriftDetector()
    last, fact = run.schedule.steps, float(run.loss[-1])
    final_held, next_held, flags = [], [], []
    first: tuple[float, float, bool] | None = None
    for index, (step, loss) in enumerate(zip(run.steps.tolist(), run.loss.tolist(), strict=True)):
        if index == 0:
            continue
        applied = LrCurve(run.schedule.lr[: int(run.steps[index - 1])], run.schedule.warmup_steps)
        seen = LossCurve(applied, run.steps[:index], loss=run.loss[:index])
        progress = RunProgress(run.schedule, seen)
        following = forecaster.predict_loss(progress, step)
        if isinstance(following, Prediction):
            next_held.append(following.low <= loss <= following.high)
            event = detector.see(step, loss, following)
            if event is not None:
                flags.append((event.step, event.error))
        final = forecaster.predict_loss(progress, int(run.steps[-1]))
        if isinstance(final, Prediction):
            held = final.low <= fact <= final.high
            final_held.append(held)
            if first is None:
                first = (float(run.steps[index - 1]) / last, final.loss / fact - 1, held)
    share, error, held = first or (None, 0.0, True)
    return Outcome(
        run.name, share, error, held, sum(final_held), len(final_held), sum(next_held), len(next_held), tuple(flags)
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """Returns a row of the table."""
    first = [outcome for outcome in outcomes if outcome.first_share is not None]
    errors = np.array([abs(outcome.first_error) for outcome in first])
    outside = sum(not outcome.first_held for outcome in first)
    finals = sum(outcome.final_held for outcome in first) / sum(outcome.finals for outcome in first)
    nexts = sum(outcome.next_held for outcome in first) / sum(outcome.nexts for outcome in first)
    flagged = sum(bool(outcome.flags) for outcome in outcomes)
    return (
        f"{len(first)} | {100 * np.median(errors):.1f}% | {100 * errors.max():.1f}% | {outside} | "
        f"{100 * finals:.0f}% | {100 * nexts:.0f}% | {flagged} |"
    )


def main() -> None:
    """Reads the arguments and prints the table, and the runs whose first forecast failed or that were flagged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss-curves", type=Path, help="the folder of the public curves")
    parser.add_argument("--ways", type=int, default=5, help="of taking the losses")
    parser.add_argument("--only", default="", help="the curves whose size/name holds this")
    arguments = parser.parse_args()
    if arguments.loss_curves is None:
        print("needs --loss-curves")
        return
    curves = [
        (size, path.stem, read_curve(path, warmup_steps=WARMUP_STEPS).curve)
        for size in SIZES
        for path in sorted((arguments.loss_curves / size).glob("*.csv"))
        if arguments.only in f"{size}/{path.stem}"
    ]
    print(
        "| first loss at | forecast | first misses: median | most | first outside | last held | next held | flagged |"
    )
    print("|---" * 8 + "|")
    details = []
    for way in range(arguments.ways):
        share = way / arguments.ways
        outcomes = []
        for size, name, curve in curves:
            outcome = watched(taken(curve, share))
            outcomes.append(outcome)
            if outcome.flags or not outcome.first_held:
                flags = ", ".join(f"flagged at step {step} ({100 * error:+.2f}%)" for step, error in outcome.flags)
                first = f"first forecast {100 * outcome.first_error:+.2f}% at {100 * (outcome.first_share or 0):.0f}%"
                details.append(
                    f"- {share:.1f}, {size} {name}: {first}, {'' if outcome.first_held else 'outside; '}{flags}"
                )
        print(f"| {share:.1f} of the spacing | {summary(outcomes)}", flush=True)
    print("\n" + "\n".join(details))


if __name__ == "__main__":
    main()
