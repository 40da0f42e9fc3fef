"""The config keys that may change when a run resumes: those that do not alter what the run has done so far.

Each declares it beside its type (`settings.may_change`). A change of any other key would make it another run: the
losses would not be those of one run.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from schedules.stage_lengths import first_steps, stage_lengths
from settings.declarations import MAY_CHANGE, MAY_MOVE, declared
from settings.differences import ABSENT, Difference, differing, show


def differences(
    there: object, here: object, *, schema: type[BaseModel], hashed: bool = False
) -> dict[str, tuple[str, str]]:
    """Returns the keys that differ between two configs of class `schema` and may not, with both values as text.

    If a method's name differs, its other keys are not listed. `hashed`: the hashes of what the run reads are compared,
    so the paths may differ.
    """
    pairs = differing(there, here)
    renamed = [key.removesuffix("name") for key, pair in pairs.items() if key.endswith(".name") and ABSENT not in pair]
    harmless = (MAY_CHANGE, MAY_MOVE) if hashed else (MAY_CHANGE,)

    def counts(key: str, pair: Difference) -> bool:
        if declared(schema, key, there if pair.new is ABSENT else here, *harmless) is not None:
            return False
        return not any(key.startswith(method) and key != f"{method}name" for method in renamed if method != "run.")

    return {key: (show(pair.old), show(pair.new)) for key, pair in pairs.items() if counts(key, pair)}


def past_of(plain: dict[str, Any], *, batch: int, sources: Collection[str], staged: bool = False) -> dict[str, Any]:
    """Returns the part of a config that decided the first `batch` batches of a run whose config names these `sources`.

    It excludes stages that begin later, the end of the stage that the run is in, and how other sources are built.
    `staged`: the config is compared with one that has stages; without stages of its own it counts as one stage.
    """
    if "data" not in plain:
        return plain
    data = plain["data"]
    named = {name: source for name, source in data["sources"].items() if name in sources}
    past = {**plain, "data": {**data, "sources": named}}
    if not staged:
        return past
    lengths = stage_lengths(plain) or [plain["train"]["steps"]]
    stages = plain["stages"] or [{"mixture": {}, "replay": None, "schedule": None, "lr": None}]
    begun = [
        {
            "mixture": stage["mixture"] or data["mixture"],
            **{key: stage[key] for key in ("replay", "schedule", "lr")},
            **({"steps": length} if first + length < batch else {}),
        }
        for stage, first, length in zip(stages, first_steps(lengths), lengths, strict=True)
        if first < max(batch, 1)
    ]
    return {**past, "data": {**past["data"], "mixture": {}}, "stages": begun}


def without_schedules(past: dict[str, Any]) -> dict[str, Any]:
    """Returns what `past_of` returns without the schedules: for configs that gave every step so far the same lr."""
    kept = {key: value for key, value in past.items() if key != "schedule"}
    if "stages" in kept:
        kept["stages"] = [
            {key: value for key, value in stage.items() if key not in ("schedule", "lr")} for stage in kept["stages"]
        ]
    return kept
