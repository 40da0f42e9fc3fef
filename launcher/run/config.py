"""The run config: every section, and the checks that need more than one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from data.config import DataConfig
from model.config import ModelConfig
from optim.optimizer import OPTIMIZERS, OptimizerConfig
from parallel.config import ParallelConfig
from schedules.base import SCHEDULES, ScheduleConfig
from settings import Settings, may_change
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig


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


class RunConfig(Settings):
    """The whole config of a run, in one file."""

    run: RunSettings = Field(description="Name, folder and seed.")
    data: DataConfig = Field(description="The text, its shards, and how training reads them.")
    model: ModelConfig = Field(description="The transformer.")
    parallel: ParallelConfig = Field(ParallelConfig(), description="How the work is divided among ranks.")
    optim: Annotated[OptimizerConfig, OPTIMIZERS.field] = Field(description="The optimizer, with its peak lr.")
    schedule: Annotated[ScheduleConfig, SCHEDULES.field] = Field(description="The learning rate of each step.")
    train: TrainConfig = Field(description="Length, batch, arithmetic, guards.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="The held-out loss.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Saving and keeping checkpoints.")
