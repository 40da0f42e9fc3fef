"""Equal texts on both sides of the split, which sources with held-out fractions of their own can have.

One hash decides for all sources, so a text is held out by every source whose fraction is large enough for it. A source
of a smaller fraction would train on the same text; its copies are dropped instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data.pipeline.steps.hashing import held_out_limit


def copies_of_held_out(
    hashes: Sequence[npt.NDArray[np.uint64]], fractions: Sequence[float]
) -> list[npt.NDArray[np.int64]]:
    """Return for each task the numbers of its documents that it would train on and that another source holds out.

    `hashes` are those of the texts, task by task, and `fractions` the held-out fractions of the tasks' sources.
    """
    held = [_held_out(own, fraction) for own, fraction in zip(hashes, fractions, strict=True)]
    held_out = np.unique(np.concatenate([own[is_held] for own, is_held in zip(hashes, held, strict=True)]))
    return [np.flatnonzero(~is_held & np.isin(own, held_out)) for own, is_held in zip(hashes, held, strict=True)]


def _held_out(hashes: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """Return which of the documents are held out; the limit of all of them is no 64-bit number."""
    if fraction >= 1:
        return np.ones(hashes.shape, dtype=bool)
    return np.asarray(hashes < np.uint64(held_out_limit(fraction)))
