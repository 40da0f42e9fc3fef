"""What a run reads besides its config, by hash."""

from __future__ import annotations

import hashlib
import json

from data.shards.index import open_shards
from launcher.run.config import RunConfig
from train.run_folder.folder import recorded_inputs
from train.run_folder.input_hashes import Inputs


def inputs_of(config: RunConfig) -> Inputs:
    """Hashes of the shards, as dataset.json has them, and of a table of lr: as far as this run goes, and as far as it
    went when it was recorded.

    Raises UserError where there are no shards.
    """
    shards = open_shards(config.data)
    values = config.schedule.file_values()
    lengths = {config.train.steps, *recorded_inputs(config.run.path).lr_table} if values else set()
    return Inputs(
        tokenizer=shards.tokenizer.sha256,
        sources=shards.digests(),
        lr_table={n: hashlib.sha256(json.dumps(values[:n]).encode()).hexdigest() for n in sorted(lengths)},
    )
