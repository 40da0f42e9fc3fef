"""The hashes of the files that a run reads besides its config."""

from __future__ import annotations

import hashlib
import json

from data.shards.index import open_shards
from launcher.run.config import RunConfig
from train.run_folder.input_hashes import Inputs
from train.run_folder.start_record import recorded_inputs


def inputs_of(config: RunConfig) -> Inputs:
    """Returns the hashes of the shards, from dataset.json, and of the schedule's table of lr if it has one.

    The table is hashed up to the steps of this config, and up to those that the run folder has recorded. Raises
    UserError if there are no shards.
    """
    shards = open_shards(config.data)
    values = config.schedule.file_values()
    lengths = {config.train.steps, *recorded_inputs(config.run.path).lr_table} if values else set()
    return Inputs(
        tokenizer=shards.tokenizer.sha256,
        sources=shards.digests(),
        lr_table={n: hashlib.sha256(json.dumps(values[:n]).encode()).hexdigest() for n in sorted(lengths)},
    )
