"""The config keys that may change when a run resumes: none that would alter what the run has done so far."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Mapping
from typing import Any

# All else makes another run of it: the losses would not be those of one run.
MAY_CHANGE = {
    "run.folder": "the folder was moved",
    "run.name": "the folder was renamed",
    "parallel.*": "any layout gives the same run",
    "train.steps": "a longer run, or a shorter one; the schedule is drawn over the new length",
    "train.micro_batch_size": "how a global batch is cut, not what is in it",
    "train.recompute": "memory for time",
    "model.objective.chunk_tokens": "memory for time",
    "train.attention": "a kernel of the same function",
    "train.compile": "speed",
    "train.max_skipped_steps": "a guard",
    "train.spikes.*": "a guard: what it did so far is in the checkpoint",
    "train.timeout_seconds": "a guard",
    "train.hang_seconds": "a guard",
    "train.time_limit_seconds": "when to stop, not what to do",
    "train.stop_before_limit_seconds": "when to stop, not what to do",
    "train.log_every_steps": "the console",
    "train.profile*": "looks at the run, does not change it",
    "train.forecast": "looks at the run, does not change it",
    "evaluate.*": "looks at the run, does not change it",
    "checkpoint.*": "looks at the run, does not change it",
    "data.verify_hashes": "a guard",
    "data.prefetch_batches": "speed",
    "data.executor": "how shards are built",
    "data.workers": "how shards are built",
    "data.slurm.*": "how shards are built",
}
# These too, where the hashes of what they name were recorded and are compared (train/run_folder/input_hashes.py).
_MAY_MOVE = ("data.shards", "schedule.file")


def differences(there: object, here: object, *, hashed: bool = False) -> dict[str, tuple[str, str]]:
    """Returns the keys that differ between two configs and may not, with both values. If a method's name differs, only
    the name is listed.

    `hashed`: the hashes of what the run reads are compared, so the paths may differ.
    """
    old, new = flatten(there), flatten(here)
    may_change = (*MAY_CHANGE, *_MAY_MOVE) if hashed else tuple(MAY_CHANGE)
    keys = [key for key in dict.fromkeys([*new, *old]) if not (key in old and key in new and old[key] == new[key])]
    renamed = [key.removesuffix("name") for key in keys if key.endswith(".name") and key in old and key in new]
    return {
        key: (_shown(old, key), _shown(new, key))
        for key in keys
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in may_change)
        and not any(key.startswith(method) and key != f"{method}name" for method in renamed if method != "run.")
    }


def past_of(plain: dict[str, Any], *, batch: int, sources: Collection[str]) -> dict[str, Any]:
    """Returns the part of a config that decided the first `batch` batches of a run whose config names these `sources`.

    It excludes stages of the mixture that begin later, and how other sources are built.
    """
    if "data" not in plain:
        return plain
    data = plain["data"]
    stages = [stage for stage in data["stages"] if stage["from_step"] < batch]
    named = {name: source for name, source in data["sources"].items() if name in sources}
    return {**plain, "data": {**data, "stages": stages, "sources": named}}


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings and lists into dotted keys: `{"a": [{"b": 1}]}` is `{"a.0.b": 1}`; empty ones stay."""
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


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False, default=str) if key in flat else "absent"
