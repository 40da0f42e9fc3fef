"""The `stages` section of a config: a run in parts, each with its own data, replay of old data, and learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schedules.base import SCHEDULES, ScheduleConfig
from settings import Settings

MixtureWeights = dict[str, Annotated[float, Field(ge=0)]]


class ReplayConfig(Settings):
    """Old data in each batch of a stage, in place of new data, so that its tokens stay the same (arXiv:2403.08763)."""

    share: float = Field(
        ge=0, le=1, description="Share of each batch's rows that replays old data; 0 means none (for a sweep)."
    )
    sources: MixtureWeights = Field(
        {},
        description="Weight of each old source; empty means all that were seen, in proportion to the rows that were "
        "read of them.",
    )
    draw: Literal["seen", "unseen_first", "all"] = Field(
        "seen",
        description="Which old data: what was read before (seen), first what was not read yet and then what was "
        "(unseen_first), or the whole sources in a new order (all). Nothing repeats before all of it is read.",
    )
    run: Path | None = Field(
        None,
        description="The earlier run whose data is old: its run folder, or FOLDER@STEP for what it had read up to a "
        "checkpoint (FOLDER@latest: the newest); null means the earlier stages of this run.",
    )


class StageConfig(Settings):
    """One part of a run. Its length is given in steps or in tokens."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the stage, for messages and plots.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps of the stage; null where tokens are given.")
    tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of the stage, rounded up to whole steps; null where steps are given.",
    )
    mixture: MixtureWeights = Field({}, description="Weight of each source; empty means data.mixture.")
    replay: ReplayConfig | None = Field(None, description="Old data in each batch; null means none.")
    schedule: Annotated[ScheduleConfig, SCHEDULES.field] | None = Field(
        None,
        description="The schedule of this stage, over its own steps; null means that the run's schedule goes on "
        "through it.",
    )
    lr: float | None = Field(None, gt=0, description="Peak lr of the stage's own schedule; null means optim.lr.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            given = "neither is" if self.steps is None else "both are"
            raise ValueError(f'stage "{self.name}" needs its length in steps or in tokens, and {given} given')
        for key, weights in (("mixture", self.mixture), ("replay.sources", self.replay.sources if self.replay else {})):
            if weights and not sum(weights.values()) > 0:
                raise ValueError(f"{key} = {weights}: the weights must not all be 0")
        if self.lr is not None and self.schedule is None:
            raise ValueError(
                f"lr = {self.lr} is the peak of the stage's own schedule, and it has none; set schedule too, such as "
                "{name: cosine, warmup_steps: 100}"
            )
        return self

    def steps_of(self, tokens_per_step_global: int) -> int:
        """Returns the length in steps, for a step of so many tokens."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // tokens_per_step_global)
