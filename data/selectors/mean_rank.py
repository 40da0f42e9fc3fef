"""Several selectors combined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.selectors.base import SELECTORS, SelectorConfig


@SELECTORS.register
class MeanRankConfig(SelectorConfig):
    """Scores a document by the mean of its ranks in the pool by several selectors, from 0 (lowest) to 1."""

    name: Literal["mean_rank"] = "mean_rank"
    of: tuple[Annotated[SelectorConfig, SELECTORS.field_within], ...] = Field(
        min_length=2, description="The selectors whose ranks are averaged."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for selector in self.of:
            if selector.reference or len(selector.parts) > 1:
                raise ValueError(
                    f"of: {selector.name} gives no score of its own to a document; name what it is made of"
                )
        return self

    @property
    def parts(self) -> tuple[SelectorConfig, ...]:
        return self.of

    @property
    def uses_targets(self) -> bool:
        return any(selector.uses_targets for selector in self.of)

    def files(self) -> Sequence[Path]:
        return [file for selector in self.of for file in selector.files()]

    def check(self) -> None:
        for selector in self.of:
            selector.check()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls.model_validate({"of": ["random", {"name": "random", "seed": 1}]}),)
