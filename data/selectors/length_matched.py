"""Random documents as long as those that another selector chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from data.selectors.base import SELECTORS
from data.selectors.imitation import ImitationConfig

if TYPE_CHECKING:
    from data.selectors.base import Int64s, UInt64s

_STRATA_PER_DOUBLING = 4


@SELECTORS.register
class LengthMatchedConfig(ImitationConfig):
    """Chooses at random, with the distribution of lengths of another selector's choice.

    Lengths in bytes of one stratum differ by less than 19%. Where this does as well as the other selector, that one
    chose by length.
    """

    name: Literal["length_matched"] = "length_matched"

    def strata(self, *, source: int, text_bytes: UInt64s) -> Int64s:
        import numpy as np

        return (_STRATA_PER_DOUBLING * np.log2(np.maximum(text_bytes, 1))).astype(np.int64)
