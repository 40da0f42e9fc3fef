"""`lehr sweep`: trains every point of a grid, several at a time, and compares their losses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import OverridesArgument, RunConfigArgument
from launcher.exit_codes import FAILED, STOPPED_EARLY
from launcher.processes.environment import (
    available_cores,
    check_environment,
    one_openmp_thread,
    read_rank_info,
    visible_gpus,
)
from settings import UserError

if TYPE_CHECKING:
    from launcher.run.machine import Machine
    from launcher.sweep.points import Point, Sweep
    from launcher.sweep.records import Record
    from launcher.sweep.runner import Outcome


def sweep(
    config: RunConfigArgument,
    overrides: OverridesArgument = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="A key with its values; several --grid give all combinations."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each combination, with seeds from run.seed on.")] = 1,
    runs: Annotated[
        Path | None,
        typer.Option(help="The file of finished runs, a line each; by default runs.jsonl in the sweep's folder."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; by default as many as cores or GPUs allow.")
    ] = None,
) -> None:
    """Train every combination of values, each in a run folder of its own, and say which is best.

    If it was stopped or killed, run it again: finished runs are not trained again, and begun ones resume. Exit codes:
    0: every run is done. 1: some runs failed or diverged; each is named. 2: the grid, the config or a file that it
    names has a mistake. 75: the sweep was stopped, with checkpoints, and the same command continues it.
    """
    if read_rank_info().launcher != "none":
        raise UserError("`lehr sweep` starts its runs itself: call it once, without torchrun or srun")
    check_environment()
    with one_openmp_thread():
        from launcher.run.machine import read_machine
        from launcher.sweep.grid import parse_axes
        from launcher.sweep.points import plan_sweep
        from launcher.sweep.records import read_records

        machine = read_machine()
        planned = plan_sweep(config, overrides or [], parse_axes(grid or []), seeds=seeds)
        records = planned.folder / "runs.jsonl" if runs is None else runs
        known = read_records(records)
        waiting = [point for point in planned.points if point.digest not in known]
        _check(waiting, machine)
        outcome = _train(planned, known, records, machine, jobs) if waiting else None
    if outcome is None:
        print(f"{len(planned.points)} of {len(planned.points)} runs were finished; nothing was trained")
    else:
        known = outcome.records
    _report(planned, known)
    print(f"runs: {records}")
    if outcome is not None and outcome.failures:
        print("failed (the same command tries them again):", file=sys.stderr)
        for failure in outcome.failures:
            print(f"  {failure.point.label}: {failure.reason}", file=sys.stderr)
    diverged = [point for point in planned.points if point.digest in known and known[point.digest].diverged]
    if diverged:
        print(f"diverged: {'; '.join(point.label for point in diverged)}", file=sys.stderr)
    if outcome is not None and outcome.stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(STOPPED_EARLY)
    if diverged or (outcome is not None and outcome.failures):
        raise SystemExit(FAILED)


def _check(points: Sequence[Point], machine: Machine) -> None:
    """Checks every run that would start, and prints each warning once. Raises UserError for the first mistake."""
    from launcher.run.machine import check_machine
    from launcher.run.stages import training_data
    from launcher.run.start_checks import check_start
    from launcher.run.verify_shards import verify_run_shards

    warned: dict[str, list[str]] = {}
    for point in points:
        try:
            check_machine(point.config, machine, None)
            for warning in check_start(point.config, machine).warnings:
                warned.setdefault(warning, []).append(point.label)
        except UserError as error:
            raise UserError(f"{point.label}: {error}") from None
    for warning, labels in warned.items():
        more = f" (and {len(labels) - 1} more)" if len(labels) > 1 else ""
        print(f"warning: {labels[0]}{more}: {warning}", file=sys.stderr)
    sources = {point.config.data.shards: training_data(point.config) for point in points}
    for data in sources.values():
        verify_run_shards(data)


def _train(planned: Sweep, known: dict[str, Record], records: Path, machine: Machine, jobs: int | None) -> Outcome:
    """Trains the points that have no record."""
    from launcher.processes.stop_request import StopRequest
    from launcher.sweep.point_process import PointProcess, start_point
    from launcher.sweep.runner import run_points
    from settings import to_yaml
    from settings.files import output_of_user, write_text
    from settings.paths import with_absolute_paths

    ranks = max(point.config.parallel.ranks for point in planned.points)
    gpus = visible_gpus(machine.gpus)
    most = max(1, (len(gpus) or available_cores()) // ranks)
    if jobs is None:
        jobs = most
    elif gpus and jobs > most:
        raise UserError(
            f"--jobs {jobs}: this machine has {len(gpus)} GPUs, enough for {most} runs of {ranks} at a time"
        )
    threads = max(1, available_cores() // (jobs * ranks))

    def log_of(point: Point) -> Path:
        return planned.folder / "logs" / f"{point.name}.log"

    def start(point: Point, slot: int) -> PointProcess:
        path = planned.folder / "configs" / f"{point.name}.yaml"
        write_text(path, to_yaml(with_absolute_paths(point.config)))
        own = gpus[slot * ranks : (slot + 1) * ranks]
        return start_point(path, log_of(point), gpus=own, threads=threads)

    with output_of_user(planned.folder):
        for part in ("configs", "logs"):
            (planned.folder / part).mkdir(parents=True, exist_ok=True)
    with output_of_user(records):  # found out now, and not when the first run has ended
        records.parent.mkdir(parents=True, exist_ok=True)
        records.open("ab").close()
    return run_points(
        planned.points, known=known, records=records, jobs=jobs, start=start, log_of=log_of, stop=StopRequest()
    )


def _report(planned: Sweep, known: dict[str, Record]) -> None:
    """Prints the table and the best combination, and draws the plot."""
    import matplotlib

    matplotlib.use("Agg")
    from launcher.commands.figures import save_picture
    from launcher.console import print_columns
    from launcher.sweep.plot import draw_sweep
    from launcher.sweep.summary import closing_lines, combine, table

    ended = [known[point.digest] for point in planned.points if point.digest in known]
    if not ended:
        return
    combinations = combine(planned.points, known)
    print()
    print_columns(table(combinations, planned.axes))
    for line in closing_lines(combinations, planned.axes, {record.loss_is for record in ended if record.loss_is}):
        print(line)
    path = planned.folder / "sweep.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(draw_sweep(combinations, planned.axes, title=planned.folder.name), path)
    print(f"plot: {path}")
