"""The curves between two values of the lr.

Each equals, to the bit, the same formula over Python floats with the functions of `math`. NumPy's own exp and cos
differ in the last bit between processors and versions, and a run that goes on elsewhere must find the same lr; its
arithmetic and its sqrt are exact by IEEE 754.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from schedules.base import Floats, Ints, LrOfOrdinals

Shape = Callable[[float, float, Floats], Floats]
"""(first lr, last lr, share done [n], each within 0 and 1) -> lr [n]"""


def linear(first: float, last: float, done_n: Floats) -> Floats:
    """Returns a straight line."""
    return last + (first - last) * (1 - done_n)


def cosine(first: float, last: float, done_n: Floats) -> Floats:
    """Returns half a cosine."""
    return last + (first - last) * 0.5 * (1 + _each(math.cos, math.pi * done_n))


def one_minus_sqrt(first: float, last: float, done_n: Floats) -> Floats:
    """Returns the 1-sqrt curve of arXiv 2405.18392."""
    return last + (first - last) * (1 - np.sqrt(done_n))


def exponential(first: float, last: float, done_n: Floats) -> Floats:
    """Returns a geometric curve; both ends are above 0."""
    return first * _each(math.exp, done_n * math.log(last / first))


def inverse_sqrt(first: float, last: float, done_n: Floats) -> Floats:
    """Returns h(u) = 1/sqrt(1 + 10 u) - 1, scaled to the ends.

    The time scale 10 is that of a third party's code for arXiv 2503.02844.
    """
    lr_n: Floats = first + (last - first) * (1 / np.sqrt(1 + 10 * done_n) - 1) / (1 / math.sqrt(11) - 1)
    return lr_n


SHAPES: dict[str, Shape] = {
    "linear": linear,
    "cosine": cosine,
    "one_minus_sqrt": one_minus_sqrt,
    "exponential": exponential,
    "inverse_sqrt": inverse_sqrt,
}


def segment(shape: Shape, first: float, last: float, start: int, end: int) -> LrOfOrdinals:
    """Returns a function that is `first` up to ordinal `start`, then `shape`, and `last` from ordinal `end` on.

    The ends are exact: no rounding of `shape` touches them.
    """

    def lr(ordinal_n: Ints) -> Floats:
        begun, ended = np.searchsorted(ordinal_n, [start + 1, max(start + 1, end)])
        lr_n = np.empty(ordinal_n.shape)
        lr_n[:begun], lr_n[ended:] = first, last
        lr_n[begun:ended] = shape(first, last, (ordinal_n[begun:ended] - start) / (end - start))
        return lr_n

    return lr


def _each(function: Callable[[float], float], value_n: Floats) -> Floats:
    return np.fromiter(map(function, value_n.tolist()), np.float64, value_n.size)
