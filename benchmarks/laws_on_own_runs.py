"""The laws tested on lehr's own runs: two runs are fitted, others are predicted before they are trained.

1. The script builds the shards of the config and trains a small model under a constant and a cosine schedule.
2. It fits every law to these two runs. The fits predict the losses of a WSD, a linear and a re-warmed run of as many
   steps, and the default law chooses a schedule. All predictions are written to FOLDER/predictions.json once. The file
   is never changed, and none of the predicted runs may exist before it.
3. It trains the predicted runs, and the chosen schedule and cosine under two more seeds.
4. It prints the record (errors, spread over seeds) and writes the plots.

Finished work is not repeated: the same command resumes where it was stopped.

    python benchmarks/laws_on_own_runs.py [CONFIG] [--folder FOLDER] [--plots DIR] [key=value ...]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from own_runs_plan import LEAST_OF_PEAK, Plan, rewarmed

from laws.curve import last_step
from laws.fitting.fitted import Fit, fit_curves
from laws.law import LAWS
from laws.schedule_search.candidate import Constraints
from laws.schedule_search.search import search
from schedules.table import write_table
from settings.compose import compose
from settings.files import file_sha256, write_json

ROOT = Path(__file__).resolve().parent.parent
TRIED = {
    "relaxation": {"name": "relaxation"},
    "annealing": {"name": "annealing"},
    "annealing, lambda fitted": {"name": "annealing", "fit_decay": True},
    "multi_power": {"name": "multi_power"},
}
CHOOSES = "relaxation"  # the law that chooses a schedule
FITTED, UNSEEN = ("constant", "cosine"), ("wsd", "linear", "rewarmed")
LATER = (*UNSEEN, "chosen")
BOUND = 0.003  # the largest error that counts as met, for each final loss of UNSEEN


def train(plan: Plan, runs: Sequence[tuple[str, int]], processes: int) -> None:
    """Trains the runs that are not finished, `processes` at a time, with one thread each."""
    seconds_file = plan.folder / "cpu_seconds.json"

    def one(run: tuple[str, int]) -> tuple[str, float]:
        name, seed = run
        command = [sys.executable, "-m", "launcher", "train", str(plan.config), *plan.overrides]
        command += [f"schedule={json.dumps(plan.section(name))}", f"run.name={plan.run(name, seed).name}"]
        command += [f"run.folder={plan.folder}", f"run.seed={seed}"]
        with (plan.folder / f"{name}-{seed}.log").open("a") as log:
            child = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0 or not plan.finished(name, seed):
            raise SystemExit(f"run {name}-{seed} ended with exit code {child.returncode}; see {log.name}")
        print(f"{name}-{seed}: final loss {plan.curve(name, seed).loss[-1]:.4f}", flush=True)
        return plan.run(name, seed).name, usage.ru_utime + usage.ru_stime

    missing = [run for run in runs if not plan.finished(*run)]
    with ThreadPoolExecutor(processes) as pool:
        for name, seconds in pool.map(one, missing):
            known = json.loads(seconds_file.read_text()) if seconds_file.exists() else {}
            write_json(seconds_file, {**known, name: known.get(name, 0.0) + seconds})


def fits(plan: Plan) -> dict[str, Fit]:
    """Fits every law to the two fitted runs."""
    curves = [plan.curve(name, plan.seed).between(plan.first_fitted_step) for name in FITTED]
    return {name: fit_curves(LAWS.parse(section), curves) for name, section in TRIED.items()}


def predict(plan: Plan) -> None:
    """Writes the predictions unless they are there. Exits if one of the predicted runs was begun before."""
    path = plan.folder / "predictions.json"
    if path.exists():
        return
    begun = [folder.name for name in LATER for folder in sorted(plan.folder.glob(f"{name}-*")) if folder.is_dir()]
    if begun:
        raise SystemExit(f"{plan.folder}: {', '.join(begun)} began before predictions.json was written; remove them")
    found = fits(plan)
    write_table(rewarmed(plan).lr, plan.folder / "rewarmed.json")
    constraints = Constraints(plan.peak_lr, plan.warmup_steps, min_lr=LEAST_OF_PEAK * plan.peak_lr)
    best = search(found[CHOOSES], steps=plan.steps, constraints=constraints)
    write_table(best[0].schedule.lr, plan.folder / "chosen.json")
    final: dict[str, dict[str, list[float]]] = {}
    for run in (*FITTED, *LATER):
        points = last_step(plan.schedule(run))
        final[run] = {
            law: [float(fit.predict(points)[0]), *(float(bound[0]) for bound in fit.band(points))]
            for law, fit in found.items()
        }
    write_json(
        path,
        {
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "from": {name: file_sha256(plan.run(name, plan.seed) / "metrics.jsonl") for name in FITTED},
            "fits": {name: fit.to_plain() for name, fit in found.items()},
            "candidates": {c.name: [c.loss, c.section and dict(c.section)] for c in best},
            "final": final,  # by run and law: the loss, and its interval of 90%
        },
    )


def report(plan: Plan, seeds: Sequence[int]) -> str:
    """Returns the tables of the record."""
    predictions = json.loads((plan.folder / "predictions.json").read_text())
    lines = [f"Predictions written {predictions['made']}, before the predicted runs were begun.", ""]
    lines += ["| run | final loss | " + " | ".join(TRIED) + " |", "|---|---|" + "---|" * len(TRIED)]
    for name in (*FITTED, *LATER):
        fact = float(plan.curve(name, plan.seed).loss[-1])
        cells = []
        for law in TRIED:
            value, low, high = predictions["final"][name][law]
            inside = "" if low <= fact <= high else ", outside its interval"
            cells.append(f"{value:.4f} ({100 * (value / fact - 1):+.2f}%{inside})")
        lines.append(f"| {name}{' (fitted)' if name in FITTED else ''} | {fact:.4f} | " + " | ".join(cells) + " |")
    lines += ["", f"Worst of {', '.join(UNSEEN)}, against a bound of {100 * BOUND:.1f}%:"]
    for law in TRIED:
        errors = [abs(predictions["final"][name][law][0] / plan.curve(name, plan.seed).loss[-1] - 1) for name in UNSEEN]
        lines.append(f"- {law}: {100 * max(errors):.2f}%, {'met' if max(errors) <= BOUND else 'missed'}")
    pairs = np.array([[plan.curve(name, seed).loss[-1] for name in ("cosine", "chosen")] for seed in seeds])
    lines += ["", "| seed | cosine | chosen | gain |", "|---|---|---|---|"]
    lines += [
        f"| {s} | {a:.4f} | {b:.4f} | {100 * (1 - b / a):+.2f}% |" for s, (a, b) in zip(seeds, pairs, strict=True)
    ]
    predicted = predictions["final"]
    predicted_gain = 1 - predicted["chosen"][CHOOSES][0] / predicted["cosine"][CHOOSES][0]
    spread = 100 * pairs.std(axis=0, ddof=1) / pairs.mean(axis=0)
    gains = 100 * (1 - pairs[:, 1] / pairs[:, 0])
    lines += [
        "",
        f"Gain over cosine at equal steps: {gains.mean():+.2f}% in the mean of {len(seeds)} seeds (standard error "
        f"{gains.std(ddof=1) / np.sqrt(len(seeds)):.2f}%); predicted {100 * predicted_gain:+.2f}%.",
        f"Spread of final losses over seeds (standard deviation): cosine {spread[0]:.2f}%, chosen {spread[1]:.2f}%.",
    ]
    seconds = json.loads((plan.folder / "cpu_seconds.json").read_text())
    lines.append(f"CPU time of all {len(seconds)} runs: {sum(seconds.values()) / 60:.1f} minutes.")
    return "\n".join(lines)


def main() -> None:
    """Runs the steps that are not done yet and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "configs/laws.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/laws")
    parser.add_argument("--plots", type=Path, help="folder for the PNGs; default: FOLDER")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    from launcher.run.config import RunConfig

    config = compose(RunConfig, arguments.config, arguments.overrides)
    plan = Plan(
        config=arguments.config.resolve(),
        overrides=tuple(arguments.overrides),
        folder=arguments.folder.resolve(),
        steps=config.train.steps,
        peak_lr=config.optim.lr,
        warmup_steps=config.schedule.to_plain()["warmup_steps"],
        seed=config.run.seed,
    )
    plan.folder.mkdir(parents=True, exist_ok=True)
    if not (ROOT / config.data.shards / "tokenizer.json").exists():
        build = [sys.executable, "-m", "launcher", "data", "build", str(plan.config), *plan.overrides]
        subprocess.run(build, cwd=ROOT, check=True)
    seeds = range(plan.seed, plan.seed + arguments.seeds)
    train(plan, [(name, plan.seed) for name in FITTED], arguments.processes)
    predict(plan)
    train(plan, [(name, plan.seed) for name in LATER], arguments.processes)
    train(plan, [(name, seed) for seed in seeds[1:] for name in ("cosine", "chosen")], arguments.processes)
    print(report(plan, seeds))
    from own_runs_plots import plot_all  # matplotlib is slow to import

    plot_all(plan, arguments.plots or plan.folder, fitted=FITTED, predicted=LATER, seeds=seeds, bound=BOUND)


if __name__ == "__main__":
    main()
