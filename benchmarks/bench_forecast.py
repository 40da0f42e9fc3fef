"""The cost of a forecast: the held-out evaluations that it needs, as a share of training, and the forecast itself.

The script measures the CPU seconds of a step and of evaluations of several sizes, on the config of a run, in one
process on the CPU. It then times a forecast in a run of 24,000 steps after several numbers of held-out losses: by a fit
file (200 bootstrap samples), and refitted on the run's own losses.

    python benchmarks/bench_forecast.py [CONFIG] [KEY=VALUE ...]      (default: configs/demo.yaml, its shards built)
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from laws.curve import LossCurve, LrCurve, every_step, planned_lr_curve
from laws.fitting.fitted import fit_curves
from laws.forecasting.fixed_fit_forecast import FixedFitForecast
from laws.forecasting.prediction import Forecaster, RunProgress
from laws.forecasting.refitted_forecast import RefittedForecast
from laws.law import DEFAULT_LAW, LAWS
from schedules.base import SCHEDULES

WINDOWS, EVERY = (8, 16, 32, 64), (20, 25, 50, 100)
VALUES = {"L0": 2.6, "A": 0.55, "B": 0.19, "alpha": 0.48, "C": 0.02}


def seconds_of(call: Callable[[], object], *, repeats: int) -> float:
    """Returns the median CPU seconds of the calls after a first one. Other work on the machine does not count."""
    call()
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def predict_next_and_final(forecaster: Forecaster, progress: RunProgress, last: int) -> None:
    """Makes the two forecasts of an evaluation: of the next loss, and of the final one."""
    for step in (last + 1, progress.schedule.steps):
        forecaster.predict_loss(progress, step)


def forecasts() -> None:
    """Prints the time of a forecast by a fit file and of one by the run's own losses."""
    law = LAWS.parse(DEFAULT_LAW)
    planned = planned_lr_curve(
        SCHEDULES.parse({"name": "cosine", "warmup_steps": 100}), peak_lr=3e-4, total_steps=24000
    )
    print("\n| held-out losses so far | by a fit file | auto |\n|---|---|---|")
    for losses in (10, 40, 80, 400):
        points = every_step(planned, most=2 * losses)
        noise = np.random.default_rng(losses).normal(scale=1e-3, size=points.steps.size)
        run = LossCurve(planned, points.steps, loss=law.predict(VALUES, points) * np.exp(noise))
        fitted = FixedFitForecast(fit_curves(law, [run], samples=200))
        last = int(run.steps[losses - 1])
        seen = LossCurve(LrCurve(planned.lr[:last], 100), run.steps[:losses], loss=run.loss[:losses])
        progress = RunProgress(planned, seen)

        by_fit = seconds_of(lambda at=(fitted, progress, last): predict_next_and_final(*at), repeats=9)
        auto = seconds_of(lambda at=(progress, last): predict_next_and_final(RefittedForecast(law), *at), repeats=9)
        print(f"| {losses} | {1e3 * by_fit:.0f} ms | {1e3 * auto:.0f} ms |")


def evaluations(path: Path, overrides: list[str]) -> None:
    """Prints the seconds of a step and of evaluations of several sizes, and their share of a run."""
    from data.batches.held_out import HeldOutLoader
    from launcher.processes.environment import prepare_process
    from launcher.processes.rank_info import SINGLE_PROCESS
    from launcher.processes.rendezvous import open_store
    from launcher.run.build_run import build_run
    from launcher.run.config import RunConfig
    from launcher.run.held_out_sequences import held_out_loader
    from parallel.mesh import make_mesh, start_processes, stop_processes
    from settings import compose
    from train.evaluate import evaluate
    from train.micro_batches import MicroBatches
    from train.run_folder.folder import RunFolder
    from train.safety.watchdog import Watchdog
    from train.step_agreement import agree_on_step
    from train.step_batches import DeviceBatch

    config = compose(RunConfig, path, ["parallel={}", *overrides])
    prepare_process(SINGLE_PROCESS)
    store = open_store(SINGLE_PROCESS, timeout_seconds=600)
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=600, store=store)
    mesh = make_mesh(config.parallel, timeout_seconds=600)
    with tempfile.TemporaryDirectory() as folder:
        watchdog = Watchdog(600, lambda hang: None)  # not started
        run = build_run(
            config, mesh, RunFolder(Path(folder)), kernel="blocked", lease=None, watchdog=watchdog, store=store
        )
        train = config.train

        def step() -> None:
            rows = run.loader.batch(0)
            agreement = agree_on_step(rows, mesh, stop_requested=False)
            batches = MicroBatches(
                DeviceBatch.of(rows, mesh.device),
                size=train.micro_batch_size,
                tokens_global=agreement.tokens_global,
                make_mask=run.make_mask,
            )
            run.engine.train_step(batches, lr=1e-6)

        def evaluate_on(held_out: HeldOutLoader) -> None:
            evaluate(
                run.engine,
                held_out,
                mesh,
                micro_batch_size=train.micro_batch_size,
                micro_batches=train.global_batch_size // train.micro_batch_size,
                make_mask=run.make_mask,
            )

        a_step = seconds_of(step, repeats=9)
        rows = f"{train.global_batch_size} rows of {train.seq_length} tokens, {len(run.held_out.sources)} sources"
        print(
            f"\nA step of {path}: {a_step:.2f} s ({rows}). An evaluation, and its share of training time, one every:\n"
        )
        print("| max_windows | seconds | in steps |" + "".join(f" {every} steps |" for every in EVERY))
        print("|---|---|---|" + "---|" * len(EVERY))
        for windows in WINDOWS:
            held_out = held_out_loader(config, max_windows=windows)
            taken = seconds_of(lambda held_out=held_out: evaluate_on(held_out), repeats=3)
            shares = "".join(f" {100 * taken / (taken + every * a_step):.1f}% |" for every in EVERY)
            print(f"| {windows} | {taken:.2f} | {taken / a_step:.2f} |{shares}", flush=True)
        run.loader.close()
        run.metrics.close()
    stop_processes()


def main() -> None:
    """Reads the arguments and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    arguments = parser.parse_args()
    forecasts()
    evaluations(arguments.config, arguments.overrides)


if __name__ == "__main__":
    main()
