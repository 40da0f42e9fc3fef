"""The lengths of a run's stages, from a run config as plain values: what is recorded in a run folder, or not yet read.

A stage's length is `steps`, or `tokens`, which are rounded up to whole steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple


def stage_lengths(plain: Mapping[str, Any]) -> list[int] | None:
    """Returns the steps of each stage; empty without stages, and None if a value is not of the kind that it must be."""
    stages, train = plain.get("stages") or (), plain.get("train")
    tokens_per_step = _product(train, "global_batch_size", "seq_length") if isinstance(train, Mapping) else None
    if not isinstance(stages, list | tuple):
        return None
    lengths: list[int] = []
    for stage in stages:
        if not isinstance(stage, Mapping):
            return None
        steps, tokens = stage.get("steps"), stage.get("tokens")
        if isinstance(steps, int) and _is_count(steps) and tokens is None:
            lengths.append(steps)
        elif isinstance(tokens, int) and _is_count(tokens) and steps is None and tokens_per_step is not None:
            lengths.append(-(-tokens // tokens_per_step))
        else:
            return None
    return lengths


def first_steps(lengths: list[int]) -> list[int]:
    """Returns the 0-based first step of each stage."""
    return [0, *accumulate(lengths)][: len(lengths)]


class Mix(NamedTuple):
    """The data from a step on."""

    key: str  # of the stage in the config
    first_step: int
    mixture: Mapping[str, Any]
    replay: Mapping[str, Any] | None


def mixes(plain: Mapping[str, Any]) -> list[Mix]:
    """Returns the mixes of data that a run goes through, each different from the one before; there is at least one."""
    data = plain.get("data")
    own = data.get("mixture") if isinstance(data, Mapping) else None
    found = [] if (lengths := stage_lengths(plain)) else [Mix("data", 0, own or {}, None)]
    for number, first_step in enumerate(first_steps(lengths or [])):
        stage = plain["stages"][number]
        replay = stage.get("replay")
        replays = isinstance(replay, Mapping) and replay.get("share")
        mix = Mix(f"stages.{number}", first_step, stage.get("mixture") or own or {}, replay if replays else None)
        if not found or found[-1][2:] != mix[2:]:
            found.append(mix)
    return found


def _product(section: Mapping[str, Any], *keys: str) -> int | None:
    product = 1
    for key in keys:
        if not _is_count(section.get(key)):
            return None
        product *= section[key]
    return product


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
