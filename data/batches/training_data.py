"""The `data` section as training reads it: with the stages of the run, each from a step on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.batches.draw_plan import DrawOrder, Seen
from data.config import DataConfig


@dataclass(frozen=True)
class Replay:
    """Old data in each batch of a stage."""

    key: str  # in the config, for messages
    share: float  # of the rows, above 0
    weights: dict[str, float]  # of the old sources; empty means in proportion to the rows that were read of them
    draw: DrawOrder
    earlier: Seen | None  # what an earlier run read; None means the earlier stages of this run

    def named_sources(self) -> dict[str, float]:
        """Return the weights, or else the rows that the earlier run read; empty for all that this run has read."""
        earlier = self.earlier.sources if self.earlier else {}
        return self.weights or {name: source.rows for name, source in earlier.items()}


@dataclass(frozen=True)
class DataStage:
    """The data from a step on, until the next stage begins."""

    key: str  # of the mixture in the config, for messages
    first_step: int
    mixture: dict[str, float]  # empty means that sources weigh as much as they have tokens
    replay: Replay | None = None


class TrainingData(DataConfig):
    """The `data` section of a run, and the stages of the run."""

    stages: tuple[DataStage, ...]

    def mixtures(self) -> dict[str, dict[str, float]]:
        """Return the weights of every stage, and those of replayed sources, by their keys in the config."""
        found: dict[str, dict[str, float]] = {}
        for stage in self.stages:
            found[stage.key] = stage.mixture
            if stage.replay is not None and (named := stage.replay.named_sources()):
                found[f"{stage.replay.key}.sources"] = named
        return found


def with_stages(config: DataConfig, stages: Sequence[DataStage]) -> TrainingData:
    """Return the `data` section with the stages of a run."""
    fields = {name: getattr(config, name) for name in DataConfig.model_fields}
    return TrainingData.model_validate({**fields, "stages": tuple(stages)})


def stages_of(config: DataConfig) -> tuple[DataStage, ...]:
    """Return the stages of the run. A `data` section by itself is one stage."""
    return config.stages if isinstance(config, TrainingData) else (DataStage("data.mixture", 0, config.mixture),)
