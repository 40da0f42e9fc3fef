"""The run config: every section, and the checks that need more than one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from data.config import DataConfig
from model.config import ModelConfig
from optim.optimizer import OPTIMIZERS, OptimizerConfig
from parallel.config import ParallelConfig
from schedules.base import SCHEDULES, ScheduleConfig
from settings import Settings, compose, may_change
from settings.paths import recordable
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig
from train.run_folder.folder import RunFolder


class RunSettings(Settings):
    """The name of the run, where it is saved, and its seed."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run, and of its folder.",
        json_schema_extra=may_change("the folder was renamed"),
    )
    folder: Path = Field(
        Path("runs"),
        description="Folder that holds the folders of runs.",
        json_schema_extra=may_change("the folder was moved"),
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the initial weights and of the order of the training documents."
    )

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder / self.name


class BranchConfig(Settings):
    """The run from whose checkpoint this run begins; `lehr train CONFIG --from RUN@STEP` sets run and step."""

    model_config = ConfigDict(json_schema_extra=may_change("a run that has begun goes on from its own checkpoints"))

    run: Path | None = Field(None, description="Folder of the run; null means that this run begins by itself.")
    step: int | None = Field(None, ge=0, description="Step of its checkpoint; null means the newest complete one.")
    optimizer: Literal["keep", "reset"] = Field(
        "keep", description="Whether the optimizer's state goes on (keep) or begins afresh (reset)."
    )


class RunConfig(Settings):
    """The whole config of a run, in one file."""

    run: RunSettings = Field(description="Name, folder and seed.")
    branch: BranchConfig = Field(BranchConfig(), description="The checkpoint of another run to begin from.")
    data: DataConfig = Field(description="The text, its shards, and how training reads them.")
    model: ModelConfig = Field(description="The transformer.")
    parallel: ParallelConfig = Field(ParallelConfig(), description="How the work is divided among ranks.")
    optim: Annotated[OptimizerConfig, OPTIMIZERS.field] = Field(description="The optimizer, with its peak lr.")
    schedule: Annotated[ScheduleConfig, SCHEDULES.field] = Field(description="The learning rate of each step.")
    train: TrainConfig = Field(description="Length, batch, arithmetic, guards.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="The held-out loss.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Saving and keeping checkpoints.")


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run config, with overrides of the form `section.key=value`. Raises UserError as `compose` does.

    The config.yaml of a run folder means the run that lies there, wherever it was started: see `place_overrides`.
    """
    return compose(RunConfig, path, [*place_overrides(path), *overrides])


def place_overrides(path: Path) -> list[str]:
    """Returns overrides that set run.folder and run.name to the run folder that a config lies in; none elsewhere.

    A run folder may have been moved or renamed since it recorded its config. Raises UserError if it is no UTF-8.
    """
    if path.name != RunFolder(path.parent).config.name or not RunFolder(path.parent).holds_run:
        return []
    place = recordable(path.parent if path.parent.name not in ("", "..") else path.parent.resolve())
    values = {"run.folder": str(place.parent), "run.name": place.name}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
