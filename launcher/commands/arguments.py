"""Arguments and options that several commands take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

RunFolderArgument = Annotated[Path, typer.Argument(help="a run folder, such as runs/demo", show_default=False)]
RunConfigArgument = Annotated[Path, typer.Argument(help="the run config, a YAML file", show_default=False)]
OptionalRunConfigArgument = Annotated[
    Path | None, typer.Argument(help="the run config, a YAML file", show_default=False)
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="such as optim.lr=1e-3; ~optim.beta2 removes that key"),
]
MovedShardsOption = Annotated[
    Path | None, typer.Option("--shards", help="The folder of the run's shards, if they were moved.")
]
CheckpointStepOption = Annotated[
    int | None, typer.Option("--step", min=0, help="The step of the checkpoint; the newest if not given.")
]
FromRunOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="RUN[@STEP]", help="Begin a new run from a checkpoint of RUN: of STEP, or the newest one."
    ),
]


def branch_overrides(from_run: str | None) -> list[str]:
    """Returns the overrides that `--from RUN`, `--from RUN@STEP` or `--from RUN@latest` stands for; none without it.

    A text whose end is no step is the folder of a run.
    """
    if from_run is None:
        return []
    from train.run_folder.at_step import split_step

    run, step = split_step(from_run)
    return [f"branch.run={json.dumps(run, ensure_ascii=False)}", f"branch.step={json.dumps(step)}"]
