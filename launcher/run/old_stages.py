"""Reads `data.stages` of earlier versions as the section `stages`: the same data at every step, and the same lr."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from settings.mistakes import KeyMistakeError

NOTICE = (
    "data.stages is read as the section `stages`, in which each stage has its length instead of its first step "
    "(docs/continual.md); `lehr config show` prints it in the new form"
)


def has_old_stages(plain: Mapping[str, Any]) -> bool:
    """Returns whether a config has `data.stages`, with at least one stage."""
    data = plain.get("data")
    return isinstance(data, Mapping) and bool(data.get("stages"))


def without_old_stages(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the config without `data.stages`, which a build of shards does not read."""
    data = plain.get("data")
    if not isinstance(data, Mapping):
        return plain
    return {**plain, "data": {key: value for key, value in data.items() if key != "stages"}}


def with_new_stages(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the config with `data.stages` as `stages`. Raises KeyMistakeError if it cannot be read."""
    data = plain.get("data")
    if not isinstance(data, Mapping) or "stages" not in data:
        return plain
    old, rest = data["stages"], without_old_stages(plain)
    if not old:
        return rest
    if plain.get("stages"):
        raise KeyMistakeError("data.stages", old, "is the old form of the section `stages`, which is given too")
    train = plain.get("train")
    total = train.get("steps") if isinstance(train, Mapping) else None
    if not _is_readable(old) or not isinstance(total, int):
        rule = "must be a list of {from_step: N, mixture: {...}}, beside train.steps; better use the section `stages`"
        raise KeyMistakeError("data.stages", old, rule)
    starts = [0, *(stage["from_step"] for stage in old)]
    mixtures = [data.get("mixture") or {}, *(stage["mixture"] for stage in old)]
    if any(later <= earlier for earlier, later in pairwise(starts[1:])):
        raise KeyMistakeError("data.stages", old, "must have a from_step that grows from stage to stage")
    if starts[1] == 0:  # it replaced data.mixture
        starts, mixtures = starts[1:], mixtures[1:]
    ends = [min(start, total) for start in (*starts[1:], total)]
    stages = [
        {"name": f"from_step_{start}", "steps": end - start, "mixture": mixture}
        for start, end, mixture in zip(starts, ends, mixtures, strict=True)
        if end > start
    ]
    return {**rest, "stages": stages}


def _is_readable(old: object) -> bool:
    return isinstance(old, list | tuple) and all(
        isinstance(stage, Mapping)
        and set(stage) == {"from_step", "mixture"}
        and isinstance(stage["from_step"], int)
        and stage["from_step"] >= 0
        and isinstance(stage["mixture"], Mapping)
        for stage in old
    )
