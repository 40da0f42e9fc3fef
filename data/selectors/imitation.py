"""Controls of a selector: random documents in the proportions of its choice, which say what the proportions explain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from data.selectors.base import SELECTORS, Scorer, SelectorConfig
from data.selectors.random import RandomConfig

if TYPE_CHECKING:
    from data.selectors.base import Arrays


class ImitationConfig(SelectorConfig):
    """Scores documents at random; of each stratum, as much is chosen as the selector `of` would choose."""

    of: Annotated[SelectorConfig, SELECTORS.field_within] = Field(
        description="The selector whose choice is imitated, under the same settings of data.select."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the random numbers.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.of.reference:
            raise ValueError(f"of = {self.of.name} imitates another selector itself; name that one")
        return self

    @property
    def reference(self) -> SelectorConfig:
        return self.of

    @property
    def uses_targets(self) -> bool:
        return self.of.uses_targets

    def files(self) -> Sequence[Path]:
        return self.of.files()

    def check(self) -> None:
        self.of.check()

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        return RandomConfig(seed=self.seed).prepare(targets, fitted)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls.model_validate({"of": {"name": "random", "seed": 1}}),)
