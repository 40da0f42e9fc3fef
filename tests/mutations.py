"""Seeded damage to text, JSON and bytes: what a disk, an editor or an ill-wisher may leave behind."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

# In place of any value. Numbers at and past the edges of machine types, things of another kind, nothing, too much.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    0.5,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    float("inf"),
    float("nan"),
    "",
    "x",
    "\x00",
    "../../../etc/passwd",
    "é" * 300,
    [],
    {},
    [[]],
    {"name": None},
    {"": 1},
    [1, "a", None],
)


def mutated_json(plain: Any, rng: random.Random) -> Any:
    """A copy with one place changed: another value, gone, twice, renamed, or put in the place of another."""
    plain = copy.deepcopy(plain)
    places = list(_places(plain))
    if not places:
        return rng.choice(ODD_VALUES)
    parent, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind <= 2:
        parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif kind == 3:
        del parent[key]
    elif kind == 4:
        other_parent, other_key = rng.choice(places)
        parent[key], other = copy.deepcopy(other_parent[other_key]), copy.deepcopy(parent[key])
        if other_parent is not parent[key]:
            other_parent[other_key] = other
    elif isinstance(parent, dict):
        parent[str(key) + rng.choice("xs_ ")] = parent.pop(key)
    else:
        parent.insert(key, copy.deepcopy(parent[key]))
    return plain


def mutated_number(plain: Any, rng: random.Random) -> Any:
    """A copy with one number a little, or a lot, different: still of the right kind."""
    plain = copy.deepcopy(plain)
    places = [(p, k) for p, k in _places(plain) if isinstance(p[k], int | float) and not isinstance(p[k], bool)]
    if not places:
        return mutated_json(plain, rng)
    parent, key = rng.choice(places)
    parent[key] = rng.choice([parent[key] + 1, parent[key] - 1, parent[key] * 2, -parent[key], parent[key] * 1000])
    return plain


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """A copy that was cut, or has bits flipped, bytes put in, a stretch of zeros, a stretch twice."""
    kind = rng.randrange(6)
    place = rng.randrange(len(content) + 1)
    length = min(rng.choice([1, 4, 64, 512]), len(content) - place)
    if kind == 0:
        return content[:place]
    if kind == 1 and content:
        altered = bytearray(content)
        for _ in range(rng.choice([1, 1, 8])):
            altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
        return bytes(altered)
    if kind == 2:
        return content[:place] + rng.randbytes(rng.choice([1, 3, 100])) + content[place:]
    if kind == 3:
        return content[:place] + bytes(length) + content[place + length :]
    if kind == 4:
        return content[: place + length] + content[place:]
    return content[:place] + content[place + length :]


def damaged_json(plain: Any, rng: random.Random) -> bytes:
    """The text of a JSON value after one mutation of its content, its numbers or its bytes."""
    kind = rng.randrange(4)
    if kind == 0:
        return mutated_bytes(json.dumps(plain, indent=1).encode(), rng)
    return json.dumps((mutated_number if kind == 1 else mutated_json)(plain, rng), indent=1).encode()


def _places(plain: Any) -> Iterator[tuple[Any, Any]]:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in list(items):
        yield plain, key
        yield from _places(value)
