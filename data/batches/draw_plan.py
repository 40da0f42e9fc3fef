"""The plan of a run's draws: all that decides which sequence each row reads. A run records it in run.json.

Every row comes from a lane. Lane s < number of sources is the run's own stream of source s, which begins at sample 0 of
the order of the run's seed and goes on through all stages. The lanes after these are pools of old data (pool.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.batches.draws import Draw
from settings import Settings

DrawOrder = Literal["seen", "unseen_first", "all"]


class PlannedSource(Settings):
    """One source of the shards."""

    sequences: int = Field(ge=0, description="rows that one pass over the source has, at the run's seq_length")
    sha256: str = Field(description="one hash of the shards, as Shards.digests makes it")


class SeenSource(Settings):
    """The part of a source that a model was trained on."""

    seed: int = Field(description="seed of the order in which the sample numbers count")
    sequences: int = Field(ge=1)
    sha256: str
    rows: int = Field(ge=0, description="rows read, repetitions included")
    draws: tuple[Draw, ...] = Field(description="the different samples, all of the first pass over the source")


class Seen(Settings):
    """The data that a run has been trained on up to a step."""

    seq_length: int = Field(ge=1)
    tokenizer: str = Field(description="SHA-256 of tokenizer.json")
    sources: dict[str, SeenSource]


class Pool(Settings):
    """Old data of one source, to be drawn again (seen), drawn on (unseen_first), or drawn as a whole (all)."""

    source: str
    draw: DrawOrder
    seen: SeenSource
    of_earlier_run: bool = Field(description="whether another run read it; else the earlier stages of this run did")


class PlannedStage(Settings):
    """The weights of the lanes from a step on; their sum is the period of the mixture."""

    first_step: int = Field(ge=0)
    weights: tuple[int, ...]


class DrawPlan(Settings):
    """The draws of a run as numbers: with a step, it decides every row of the step."""

    seed: int = Field(ge=0)
    seq_length: int = Field(ge=1)
    rows_per_step_global: int = Field(ge=1)
    tokenizer: str = Field(description="SHA-256 of tokenizer.json")
    sources: dict[str, PlannedSource]
    pools: tuple[Pool, ...] = ()
    stages: tuple[PlannedStage, ...]
