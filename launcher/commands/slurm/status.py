"""`lehr slurm status`: where the jobs of runs are, and what their time went into."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

_SECONDS = 5.0


def status_command(
    runs: Annotated[list[Path], typer.Argument(help="run folders, such as runs/demo", show_default=False)],
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every five seconds, until Ctrl-C.")] = False,
) -> None:
    """Show the jobs of runs: state, step, loss, speed, time left, starts and why, goodput, last checkpoint."""
    from launcher.slurm.status import status_lines

    while True:
        lines = [line for run in runs for line in status_lines(run)]
        if watch:
            print("\033[H\033[2J", end="")
        print("\n".join(lines), flush=True)
        if not watch:
            return
        time.sleep(_SECONDS)
