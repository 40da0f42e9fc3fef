"""`lehr runs`: the family tree of the runs in a folder, or the line of one run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from launcher.runs.family import Ancestor, Member
    from launcher.runs.summary import RunSummary


def list_runs(
    path: Annotated[Path, typer.Argument(help="a folder of runs, or one run folder")] = Path("runs"),
) -> None:
    """Show the family tree of the runs in a folder, or the line of one run.

    The tree has each run under the one from whose checkpoint it began, with its steps, state, last loss and held-out
    loss. The line has the run's ancestors, with the steps, tokens and data of each, and the runs that began from it.
    """
    from launcher.console import print_columns
    from launcher.runs.family import read_family, read_line, walk
    from launcher.runs.summary import is_run

    if not is_run(path):
        rows: list[tuple[str, ...]] = [("run", "steps", "state", "loss", "held-out loss", "from")]
        rows += [_tree_row(prefix, member) for prefix, member in walk(read_family(path))]
        print_columns(rows)
        return
    line = read_line(path)
    print_columns([("run", "steps", "tokens", "state", "data"), *map(_line_row, line)])
    run = line[-1].run
    for branch in dict.fromkeys(run.branches if run is not None else ()):
        print(f"branch: {branch}{'' if is_run(branch) else ' (its folder is gone)'}")


def _tree_row(prefix: str, member: Member) -> tuple[str, ...]:
    origin = "" if member.origin is None else f"{_name(member.origin.path)}@{member.origin.step}"
    run = member.run
    if run is None:
        return (prefix + _name(member.path), "", "gone", "", "", origin)
    return (prefix + _name(member.path), _steps(run), run.state, _loss(run.loss), _loss(run.held_out_loss), origin)


def _line_row(part: Ancestor) -> tuple[str, ...]:
    from launcher.runs.data_text import describe_data

    steps, state, data = f"{part.first_step + 1} to {part.last_step}", "gone", "not known: its folder is gone"
    if part.last_step <= part.first_step:
        steps = "none yet"
    if part.run is not None:
        state = part.run.state
        data = describe_data(part.run.config, first_step=part.first_step, last_step=part.last_step)
    return (str(part.path), steps, f"{part.tokens:,}", state, data)


def _steps(run: RunSummary) -> str:
    return f"{run.step}/{run.total_steps}" if run.total_steps is not None else str(run.step)


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if math.isfinite(value) else "not finite"


def _name(path: Path) -> str:
    return path.name
