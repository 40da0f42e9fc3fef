"""The run config: every section, and the checks that need more than one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from data.config import DataConfig
from launcher.run.old_stages import NOTICE, has_old_stages, with_new_stages
from model.config import ModelConfig
from optim.optimizer import OPTIMIZERS, OptimizerConfig
from parallel.config import ParallelConfig
from schedules.base import SCHEDULES, ScheduleConfig
from schedules.stage_lengths import stage_lengths
from settings import Settings, may_change, parse, read_yaml
from settings.mistakes import KeyMistakeError
from settings.overrides import is_set_by
from settings.paths import recordable
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig
from train.run_folder.folder import RunFolder
from train.stage_config import StageConfig


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
    stages: tuple[StageConfig, ...] = Field(
        (),
        description="Parts of the run, each with its own data, replay and learning rate; train.steps is their sum. "
        "Empty means one part (docs/continual.md).",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_stages(cls, values: Any) -> Any:
        """Reads data.stages of earlier versions, and fills in train.steps where stages decide it."""
        if not isinstance(values, Mapping):
            return values
        plain = with_new_stages(values)
        lengths, train = stage_lengths(plain), plain.get("train")
        if not plain.get("stages") or not isinstance(train, Mapping):
            return plain
        if lengths is None:  # a stage has a mistake, and train.steps is not another one
            return {**plain, "train": {"steps": 1, **train}}
        if train.get("steps") not in (None, sum(lengths)):
            raise KeyMistakeError(
                "train.steps",
                train["steps"],
                f"is decided by the stages, which take {sum(lengths)} steps together; leave it out, and change "
                "stages.N.steps",
            )
        return {**plain, "train": {**train, "steps": sum(lengths)}}

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: each needs a name of its own, not {', '.join(names)}")
        if self.stages and self.stages[0].replay and self.stages[0].replay.share and not self.stages[0].replay.run:
            raise ValueError(
                "stages.0.replay: no stage comes before the first one, so there is nothing to replay; name an earlier "
                "run in stages.0.replay.run"
            )
        return self

    def stage_steps(self) -> list[int]:
        """Returns the steps of each stage; empty without stages."""
        return [stage.steps_of(self.train.global_batch_size * self.train.seq_length) for stage in self.stages]


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run config, with overrides of the form `section.key=value`. Raises UserError as `compose` does.

    The config.yaml of a run folder means the run that lies there, wherever it was started: see `place_overrides`. The
    train.steps that it records beside stages follow from the stages as they are now.
    """
    places = place_overrides(path)
    if places and any(is_set_by("branch.run", override) for override in overrides):
        places.append("branch.optimizer=keep")  # that of the branch which the run itself is does not count
    plain = read_yaml(path, [*places, *overrides])
    if has_old_stages(plain):
        print(f"notice: config {path}: {NOTICE}", file=sys.stderr)
    train = plain.get("train")
    if places and plain.get("stages") and not any(is_set_by("train.steps", override) for override in overrides):
        plain["train"] = {key: value for key, value in train.items() if key != "steps"} if train else train
    return parse(RunConfig, plain, source=str(path), overrides=overrides)


def with_values(config: RunConfig, values: Mapping[str, object], *, source: str) -> RunConfig:
    """Returns the config with other values, by key, such as `train.steps`. Raises UserError, which names `source`."""
    plain = config.to_plain()
    for key, value in values.items():
        *sections, name = key.split(".")
        section = plain
        for part in sections:
            section = section[part]
        section[name] = value
    return parse(RunConfig, plain, source=source)


def place_overrides(path: Path) -> list[str]:
    """Returns overrides that set run.folder and run.name to the run folder that a config lies in; none elsewhere.

    A run folder may have been moved or renamed since it recorded its config. Raises UserError if it is no UTF-8.
    """
    if path.name != RunFolder(path.parent).config.name or not RunFolder(path.parent).holds_run:
        return []
    place = recordable(path.parent if path.parent.name not in ("", "..") else path.parent.resolve())
    values = {"run.folder": str(place.parent), "run.name": place.name}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
