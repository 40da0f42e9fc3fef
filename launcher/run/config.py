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
from settings import Settings
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig


class RunSettings(Settings):
    """The name of the run, its folder and its seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    folder: Path = Path("runs")
    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder / self.name


class RunConfig(Settings):
    """One file, all of a run."""

    run: RunSettings
    data: DataConfig
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    optim: Annotated[OptimizerConfig, OPTIMIZERS.field]
    schedule: Annotated[ScheduleConfig, SCHEDULES.field]
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
