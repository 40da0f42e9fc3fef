"""Random documents from the sources of those that another selector chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from data.selectors.base import SELECTORS
from data.selectors.imitation import ImitationConfig

if TYPE_CHECKING:
    from data.selectors.base import Int64s, UInt64s


@SELECTORS.register
class SameSourcesConfig(ImitationConfig):
    """Chooses at random, from each source as much as another selector chooses.

    Where this does as well as the other selector, that one chose sources, and a mixture would do the same.
    """

    name: Literal["same_sources"] = "same_sources"

    def strata(self, *, source: int, text_bytes: UInt64s) -> Int64s:
        import numpy as np

        return np.full(len(text_bytes), source, dtype=np.int64)
