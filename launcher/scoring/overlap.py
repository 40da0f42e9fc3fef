"""How many of the scored documents a run was trained on: it knows these, so its scores of them mislead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.shards.index import Shards, open_shards
from launcher.run.saved_run import read_run_config
from launcher.run.stages import training_data
from settings import UserError
from train.run_folder.start_record import recorded_inputs


def overlap_warnings(runs: Sequence[Path], shards: Shards) -> list[str]:
    """Returns a warning for each run that was trained on documents of these shards.

    Documents are compared by the hashes of their texts. If the run's shards are gone or have no hashes, sources are
    compared by the recorded hashes of their shards.
    """
    scored = _document_hashes(shards)
    warnings = []
    for run in runs:
        _, config = read_run_config(run)
        try:
            trained = _document_hashes(open_shards(training_data(config)))
            known = int(np.isin(scored, trained).sum())
        except UserError:
            recorded = set(recorded_inputs(run).sources.values())
            same = [name for name, digest in shards.digests().items() if digest in recorded]
            known = sum(shards.split(name, "train").documents for name in same)
        if known:
            warnings.append(
                f"{run} was trained on {known:,} of the {len(scored):,} documents that it scores, and knows them; "
                "train it on one fold of the documents, and score the other"
            )
    return warnings


def _document_hashes(shards: Shards) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Returns the hashes of all documents to train on. Raises UserError if there are none on record."""
    mapped = [shard for name in shards.names for shard in shards.stream(name, "train").shards]
    return np.concatenate([shard.document_hashes for shard in mapped] or [np.empty(0, dtype=np.uint64)])
