"""`lehr sweep`: trains every point of a grid, several at a time, and compares their losses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import OverridesArgument, RunConfigArgument
from launcher.commands.point_outcomes import exit_by_outcome
from launcher.processes.environment import (
    check_environment,
    one_openmp_thread,
    read_rank_info,
)
from settings import UserError

if TYPE_CHECKING:
    from launcher.sweep.points import Sweep
    from launcher.sweep.records import Record


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
        from launcher.sweep.train_points import check_points, train_points, write_configs

        machine = read_machine()
        planned = plan_sweep(config, overrides or [], parse_axes(grid or []), seeds=seeds)
        records = planned.folder / "runs.jsonl" if runs is None else runs
        known = read_records(records)
        waiting = [point for point in planned.points if point.digest not in known]
        check_points(waiting, machine)
        write_configs(planned)
        outcome = train_points(planned, known, records, machine, jobs) if waiting else None
    if outcome is None:
        print(f"{len(planned.points)} of {len(planned.points)} runs were finished; nothing was trained")
    else:
        known = outcome.records
    _report(planned, known)
    print(f"runs: {records}")
    exit_by_outcome(planned.points, known, outcome)


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
