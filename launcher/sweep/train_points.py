"""The check of all points before any of them starts, and their training on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.processes.environment import available_cores, visible_gpus
from launcher.processes.stop_request import StopRequest
from launcher.run.machine import Machine, check_machine
from launcher.run.stages import training_data
from launcher.run.start_checks import check_start
from launcher.run.verify_shards import verify_run_shards
from launcher.sweep.point_process import PointProcess, start_point
from launcher.sweep.points import Point, Sweep
from launcher.sweep.records import Record
from launcher.sweep.runner import Outcome, run_points
from settings import UserError, to_yaml
from settings.files import output_of_user, write_text
from settings.paths import with_absolute_paths


def check_points(points: Sequence[Point], machine: Machine) -> None:
    """Checks every run that would start, and prints each warning once. Raises UserError for the first mistake."""
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


def write_configs(planned: Sweep) -> None:
    """Writes the config of every point, of finished ones too: a file of finished runs has their hashes only."""
    with output_of_user(planned.folder):
        (planned.folder / "configs").mkdir(parents=True, exist_ok=True)
        for point in planned.points:
            write_text(_config_of(planned, point), to_yaml(with_absolute_paths(point.config)))


def train_points(
    planned: Sweep, known: dict[str, Record], records: Path, machine: Machine, jobs: int | None
) -> Outcome:
    """Trains the points that have no record, `jobs` at a time, or as many as the machine allows."""
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
        own = gpus[slot * ranks : (slot + 1) * ranks]
        return start_point(_config_of(planned, point), log_of(point), gpus=own, threads=threads)

    with output_of_user(planned.folder):
        (planned.folder / "logs").mkdir(parents=True, exist_ok=True)
    with output_of_user(records):  # found out now, and not when the first run has ended
        records.parent.mkdir(parents=True, exist_ok=True)
        records.open("ab").close()
    return run_points(
        planned.points, known=known, records=records, jobs=jobs, start=start, log_of=log_of, stop=StopRequest()
    )


def _config_of(planned: Sweep, point: Point) -> Path:
    return planned.folder / "configs" / f"{point.name}.yaml"
