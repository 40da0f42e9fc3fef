"""Task accuracy in two steps on a published ladder: the task's loss by the joint law, then its accuracy by a sigmoid.

    OMP_NUM_THREADS=1 python benchmarks/bench_ladder_tasks.py --ladder DIR

Fitted on the runs of 0.5, 1 and 2xC of all sizes; the last accuracies of those of 5 and 10xC are forecast. The folder
is that of bench_ladder_laws.py.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from ladder_data import LONG, PARAMETERS, SHORT, read_ladder

from laws.curve import LossCurve, last_step
from laws.fitting.fitted import fit_curves
from laws.loss_curves.joint import JointConfig
from laws.scaling.task_accuracy import fit_task_accuracy

TASKS = {"arc_easy": 0.25, "hellaswag": 0.25}  # with the accuracy of guessing


def main() -> None:
    """Prints a row for each task and long run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", type=Path, required=True, help="the folder of the ladder's CSV files")
    folder = parser.parse_args().ladder
    curves = read_ladder(folder)
    print("| task | run | loss: forecast | fact | error | accuracy: forecast | fact | error, points |")
    print("|---|---|---|---|---|---|---|---|")
    for task, floor in TASKS.items():
        known = {
            (size, horizon): _with_task(folder, curves[size, horizon, "c4_en"], task)
            for size in PARAMETERS
            for horizon in (*SHORT, *LONG)
        }
        fitted = [known[size, horizon] for size in PARAMETERS for horizon in SHORT]
        fit = fit_curves(JointConfig(), [curve for curve, _ in fitted], samples=0)
        losses, accuracies = (np.concatenate(each) for each in zip(*((c.loss, a) for c, a in fitted), strict=True))
        sigmoid = fit_task_accuracy(losses, accuracies, floor=floor)
        errors = []
        for size in PARAMETERS:
            for horizon in LONG:
                curve, accuracy = known[size, horizon]
                end = last_step(curve.schedule, parameters=curve.parameters, batch_tokens=curve.batch_tokens)
                loss = float(fit.predict(end)[0])
                forecast = float(sigmoid.accuracy(loss))
                errors.append(abs(forecast - accuracy[-1]))
                print(
                    f"| {task} | {size}-{horizon} | {loss:.4f} | {curve.loss[-1]:.4f} | "
                    f"{100 * (curve.loss[-1] / loss - 1):+.2f}% | {forecast:.3f} | {accuracy[-1]:.3f} | "
                    f"{100 * (accuracy[-1] - forecast):+.1f} |"
                )
        print(f"| {task} | mean | | | | | | {100 * np.mean(errors):.1f} |")


def _with_task(folder: Path, curve: LossCurve, task: str) -> tuple[LossCurve, np.ndarray]:
    """Returns the curve with the losses of a task, and the accuracies at the same steps."""
    rows = np.genfromtxt(folder / f"{curve.name}.csv", delimiter=",", names=True)
    kept = np.isfinite(rows[f"{task}_bpb"]) & np.isfinite(rows[f"{task}_acc"]) & (rows["step"] >= curve.steps[0])
    own = replace(curve, steps=rows["step"][kept].astype(np.int64), loss=rows[f"{task}_bpb"][kept])
    return replace(own, provenance={"loss": task}), rows[f"{task}_acc"][kept]


if __name__ == "__main__":
    main()
