"""The held-out loss of each optimizer and of LayerNorm Scaling at its own best lr, and the tokens to a given loss.

The runs are small runs of lehr on the demo's text. The lr of every method is searched on one lattice, from the same
points outwards until the best has a worse one on either side; two more seeds follow at the best. The studies, in order:
the optimizers; AdamW with Conda's beta2 and with Conda's lr on the matrices, which shows what remains of Conda's gain;
LayerNorm Scaling against plain and scaled init in a deep, narrow model; details.

    lehr data build configs/demo.yaml data.shards=shards/quality data.tokenizer.vocab_size=2048 \\
        data.held_out_fraction=0.02
    python benchmarks/optimizer_quality.py --shards shards/quality

Each finished run is a line of optimizer_quality.jsonl and is not repeated: the same command resumes. At the end the
script prints the tables as Markdown and draws a plot; with `--report` it does only that.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from optimizer_quality_report import report
from optimizer_quality_results import Result, add_result, read_results
from optimizer_quality_studies import TASKS, Spec, Task, digest, run_config, tiny, wanted

from launcher.processes.environment import one_openmp_thread, prepare_imports, prepare_process
from launcher.processes.rank_info import SINGLE_PROCESS
from settings.processes import die_with_parent
from train.metrics.jsonl import read_metrics

HERE = Path(__file__).resolve().parent


def run_one(spec: Spec, *, quick: bool, shards: Path, folder: Path, commit: str | None) -> Result:
    """Trains in this process, which serves this run alone, with one thread. Its output goes to a file in `folder`."""
    die_with_parent(os.getppid())
    task = TASKS[spec.study.task]
    config = run_config(spec, tiny(task) if quick else task, shards=shards, folder=folder)
    shutil.rmtree(config.run.path, ignore_errors=True)
    config.run.path.mkdir(parents=True)
    with (folder / f"{spec.name}.log").open("wb") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    prepare_process(SINGLE_PROCESS)
    from launcher.run.rank_main import run_rank
    from train.safety.nonfinite import DivergedError

    diverged = False
    try:
        run_rank(config, SINGLE_PROCESS, None, on_hang=lambda hang, _: os._exit(1))
    except DivergedError:
        diverged = True
    lines = read_metrics(config.run.path / "metrics.jsonl")
    evaluations = [line for line in lines if line.get("held_out/loss", float("nan")) < float("inf")]
    rates = [value for key, value in lines[-1].items() if key.startswith("optim/fire_rate/")]
    shutil.rmtree(config.run.path)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **spec.labels(),
        "config": digest(config),
        "commit": commit,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "diverged": diverged or not evaluations or evaluations[-1]["step"] != config.train.steps,
        "tokens": [line["tokens"] for line in evaluations],
        "held_out": [line["held_out/loss"] for line in evaluations],
        "fire_rate": sum(rates) / len(rates) if rates else None,
    }


def walk(
    results: list[Result], lines: dict[str, Result], config_hash: Callable[[Spec], str], tasks: dict[str, Task]
) -> list[Spec]:
    """Moves the lines of runs that this code still defines into `results`; returns the runs that are missing.

    The wanted runs depend on the results, so the search is repeated until it finds nothing more.
    """
    while True:
        finished = {result["run"] for result in results}
        missing = [spec for spec in wanted(results, tasks) if spec.name not in finished]
        known = [spec for spec in missing if spec.name in lines]
        taken = [lines[spec.name] for spec in known if lines[spec.name]["config"] == config_hash(spec)]
        results += taken
        if not taken:
            return missing


def run_all(arguments: argparse.Namespace) -> list[Result]:
    """Trains the missing runs, `--processes` at a time; returns all results."""
    tasks = {name: tiny(task) if arguments.quick else task for name, task in TASKS.items()}

    def config_hash(spec: Spec) -> str:
        return digest(run_config(spec, tasks[spec.study.task], shards=arguments.shards, folder=arguments.folder))

    results: list[Result] = []
    lines = {result["run"]: result for result in read_results(arguments.results)}
    commit = _commit()
    pending: dict[Future[Result], str] = {}
    started = 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launcher.run.rank_main"])
    with ProcessPoolExecutor(arguments.processes, mp_context=context, max_tasks_per_child=1) as pool:
        while True:
            for spec in walk(results, lines, config_hash, tasks):
                if spec.name in pending.values() or len(pending) == arguments.processes:
                    continue
                if started == arguments.most_runs:
                    break
                started += 1
                options = {"quick": arguments.quick, "shards": arguments.shards, "folder": arguments.folder}
                with one_openmp_thread():  # the fork server starts here; the process of each run is a fork of it
                    pending[pool.submit(run_one, spec, commit=commit, **options)] = spec.name
            if not pending:
                return results
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                result = future.result()
                del pending[future]
                add_result(arguments.results, result)
                results.append(result)
                loss = "diverged" if result["diverged"] else f"{result['held_out'][-1]:.4f}"
                print(f"{result['run']:<40} {loss}  {result['cpu_seconds']:.0f} s of CPU", flush=True)


def _commit() -> str | None:
    command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None


def main() -> None:
    """Reads the arguments, trains the missing runs and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=HERE / "optimizer_quality.jsonl")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "optimizer_quality", help="folder of logs"
    )
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--most-runs", type=int, help="stop after this many runs")
    parser.add_argument("--quick", action="store_true", help="train tiny models, to see that everything runs")
    parser.add_argument("--report", action="store_true", help="only print the report")
    arguments = parser.parse_args()
    prepare_imports()
    sys.warnoptions.append("ignore:Transformer Engine and Apex are not installed")  # passed on to the fork server
    if arguments.report:
        arguments.most_runs = 0
    report(run_all(arguments), arguments.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
