"""The hashes of the files that a run reads besides its config."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from data.shards.index import open_shards
from launcher.run.config import RunConfig
from launcher.run.stages import schedule_parts, training_data
from train.run_folder.input_hashes import Inputs
from train.run_folder.start_record import recorded_inputs

REGISTERED = "registered"  # the key by which a register of `lehr ladder register` is told from a fit file


def inputs_of(config: RunConfig) -> Inputs:
    """Returns the hashes of the shards, from dataset.json, of a registered forecast, and of tables of lr.

    The tables are hashed up to the steps of this config, and up to those that the run folder has recorded. Raises
    UserError if there are no shards.
    """
    shards = open_shards(training_data(config))
    values: tuple[float, ...] = ()  # of the tables of all stages, one after the other
    count = 0
    for part in schedule_parts(config):
        if table := part.schedule.file_values():
            values = values[:count] + table
            count += part.steps
    lengths = {count, *recorded_inputs(config.run.path).lr_table} if values else set()
    return Inputs(
        tokenizer=shards.tokenizer.sha256,
        sources=shards.digests(),
        registered_forecast=register_hash(config.train.forecast),
        lr_table={n: hashlib.sha256(json.dumps(values[:n]).encode()).hexdigest() for n in sorted(lengths)},
    )


def register_hash(forecast: object) -> str:
    """Returns the SHA-256 of a registered forecast, by `train.forecast`; "" for all else, and if it cannot be read."""
    if not isinstance(forecast, Path):
        return ""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = forecast.read_bytes()
        plain = json.loads(content)
        if isinstance(plain, dict) and REGISTERED in plain:
            return hashlib.sha256(content).hexdigest()
    return ""
