"""The grid of a sweep: keys of the config with the values that each takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from settings import UserError

_OWN_KEYS = ("run.name", "run.folder", "run.seed")
_BRACKETS = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Axis:
    """One key and its values, as texts of overrides."""

    key: str
    values: tuple[str, ...]


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Returns an axis for each `KEY=VALUE,VALUE,...`. Raises UserError for another form and for a key given twice."""
    axes = [_parse_axis(text) for text in texts]
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--grid {key}: is given {keys.count(key)} times; give all of its values in one --grid")
    return axes


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Yields every combination of the axes' values, by key; the last axis changes first."""
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


def _parse_axis(text: str) -> Axis:
    key, equals, values = text.partition("=")
    key = key.strip()
    if not key or not equals:
        raise UserError(f'--grid "{text}" must have the form KEY=VALUE,VALUE, such as optim.lr=1e-3,2e-3')
    if key in _OWN_KEYS:
        remedy = "give --seeds N" if key == "run.seed" else "each point has a folder of its own"
        raise UserError(f"--grid {key}: is set by the sweep; {remedy}")
    found = tuple(_split(values))
    if not all(found):
        raise UserError(f'--grid "{text}" has an empty value; write "" for an empty text')
    return Axis(key, found)


def _split(text: str) -> Iterator[str]:
    """Yields the values between commas that are not in brackets or quotes: `{name: wsd, min_lr: 0}` is one value."""
    value, closing = "", ""
    for character in text:
        if character == "," and not closing:
            yield value.strip()
            value = ""
            continue
        value += character
        if closing and character == closing[-1]:
            closing = closing[:-1]
        elif closing[-1:] not in ("'", '"'):
            closing += _BRACKETS.get(character, character if character in "'\"" else "")
    yield value.strip()
