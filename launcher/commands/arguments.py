"""Arguments and options that several commands take."""

from __future__ import annotations

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
