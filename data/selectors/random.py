"""Random selection, the baseline that every other selector must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.selectors.base import SELECTORS, Scorer, SelectorConfig

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Float64s, UInt64s


@SELECTORS.register
class RandomConfig(SelectorConfig):
    """Scores each document by a random number, which the hash of its text and the seed decide."""

    name: Literal["random"] = "random"
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the random numbers.")

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        return _RandomScorer(self.seed)


class _RandomScorer(Scorer):
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        from data.selectors.blocks.seeded_uniform import seeded_uniform

        return seeded_uniform(hashes, self.seed)
