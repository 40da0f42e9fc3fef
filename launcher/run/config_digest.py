"""The hash of a run's config, and the keys in it: all that decides the losses of the run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from settings import Settings
from settings.declarations import MAY_MOVE, declared
from settings.differences import flatten
from train.run_folder.input_hashes import Inputs

_DATA_KEYS = ("data.mixture", "data.document_masking")  # the shards count by their hashes
_NOT_HASHED = ("run.name", "run.folder", "checkpoint", "train.forecast")


def config_digest(config: RunConfig, inputs: Inputs | None = None) -> str:
    """Returns a hash of all that decides the losses of a run: its resolved config, and the hashes of what it reads.

    `inputs` are these hashes, for a caller who has recorded them; by default they are read from the shards. Names,
    places and checkpoints are left out, and so is every key at its default: a key that a later version of lehr adds
    changes no hash.
    """
    read = (inputs or inputs_of(config)).to_plain()
    del read["registered_forecast"]  # a forecast changes no loss
    content = json.dumps([decisive_keys(config), read], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def decisive_keys(config: RunConfig) -> dict[str, Any]:
    """Returns the keys that differ from their defaults; without names, places, checkpoints and the forecast."""
    plain = config.to_plain()
    return {
        key: value
        for key, value in flatten(without_defaults(config)).items()
        if (key.startswith(_DATA_KEYS) or not key.startswith(("data.", *_NOT_HASHED)))
        and declared(RunConfig, key, plain, MAY_MOVE) is None
    }


def without_defaults(settings: Settings) -> dict[str, Any]:
    """Returns the values that differ from the class's defaults; a method keeps its name."""
    plain, kept = settings.to_plain(), {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name != "name" and value == field.get_default(call_default_factory=True):
            continue
        kept[name] = _plain_without_defaults(value, plain[name])
    return kept


def _plain_without_defaults(value: object, plain: Any) -> Any:
    if isinstance(value, Settings):
        return without_defaults(value)
    if isinstance(value, tuple) and any(isinstance(item, Settings) for item in value):
        return [_plain_without_defaults(*pair) for pair in zip(value, plain, strict=True)]
    return plain
