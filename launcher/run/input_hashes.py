"""The hashes of the files that a run reads besides its config."""

from __future__ import annotations

import hashlib
import json

from data.shards.index import open_shards
from launcher.run.config import RunConfig
from launcher.run.stages import schedule_parts, training_data
from train.run_folder.input_hashes import Inputs
from train.run_folder.start_record import recorded_inputs


def inputs_of(config: RunConfig) -> Inputs:
    """Returns the hashes of the shards, from dataset.json, and of the schedules' tables of lr if there are any.

    They are hashed up to the steps of this config, and up to those that the run folder has recorded. Raises
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
        lr_table={n: hashlib.sha256(json.dumps(values[:n]).encode()).hexdigest() for n in sorted(lengths)},
    )
