"""Random numbers that depend on a document's hash and a seed alone, so that any process draws the same ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_INCREMENT = 0x9E3779B97F4A7C15
_RANGE = 1 << 64


def seeded_uniform(hashes: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """Return a number in (0, 1) for each hash, by two rounds of the finalizer of SplitMix64 (Steele et al. 2014).

    For two seeds, the numbers of one hash are independent.
    """
    offset = np.uint64((seed + 1) * _INCREMENT % _RANGE)
    mixed = _mix(_mix(hashes.astype(np.uint64) + offset) + offset)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
