"""Where two nested values differ, key by key, and how a long list of lines is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class _Absent:
    """Equal to nothing but itself."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()
"""Stands for the value of a key that one of the two sides does not have."""


class Difference(NamedTuple):
    """The two values of a key; one of them may be ABSENT."""

    old: Any
    new: Any


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Flattens mappings and lists to dotted keys: `{"a": [{"b": 1}]}` becomes `{"a.0.b": 1}`. Empty ones are values."""
    items: list[tuple[str, object]]
    if isinstance(value, Mapping) and value:
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value:
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def differing(old: object, new: object) -> dict[str, Difference]:
    """Returns the flattened keys whose values differ: those of `new` in its order, then those that only `old` has."""
    before, after = flatten(old), flatten(new)
    pairs = {key: Difference(before.get(key, ABSENT), after.get(key, ABSENT)) for key in [*after, *before]}
    return {key: pair for key, pair in pairs.items() if ABSENT in pair or pair.old != pair.new}


def differing_sections(old: object, new: object, key: str = "") -> dict[str, Difference]:
    """Returns the differences as `differing` does, but takes a list, or a mapping on one side only, as one value."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return {} if old == new else {key: Difference(old, new)}
    found: dict[str, Difference] = {}
    for name in dict.fromkeys((*old, *new)):
        inner = f"{key}.{name}" if key else str(name)
        found |= differing_sections(old.get(name, ABSENT), new.get(name, ABSENT), inner)
    return found


def show(value: object) -> str:
    """Returns a value as JSON for a message, or `absent`."""
    return "absent" if value is ABSENT else json.dumps(value, ensure_ascii=False, default=str)


def listed(lines: Sequence[str], *, most: int, more: str = "more") -> str:
    """Returns the first `most` lines, each indented by two spaces, then `and N more`."""
    shown = [f"  {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"  and {len(lines) - most} {more}")
    return "\n".join(shown)
