"""Files of model scores: a parquet file for each shard and checkpoint, with a row for each document.

FOLDER/RUN/step-00000100/SOURCE/00000.parquet     hash (uint64), tokens, el2n, loss, accuracy[, grand]

The metadata of a file say which checkpoint scored which shard, so a file of other weights or tokens is noticed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from settings import Settings, parse
from settings.files import new_file

Float64s: TypeAlias = npt.NDArray[np.float64]

_METADATA = b"lehr.scores"


class ScoreOrigin(Settings):
    """What decides the scores of a file."""

    run: str  # its name
    step: int
    source: str
    checkpoint_sha256: str  # of the hashes of its files of tensors
    shard_sha256: dict[str, str]  # of the shard's files, by their paths
    seq_length: int
    precision: str
    grand: bool = False  # whether norms of gradients are among the scores

    def serves(self, wanted: ScoreOrigin) -> bool:
        """Return whether scores of this origin are those that are wanted, or these and more."""
        same = self.model_copy(update={"grand": False}) == wanted.model_copy(update={"grand": False})
        return same and (self.grand or not wanted.grand)


@dataclass(frozen=True)
class DocumentScores:
    """The scores of a shard's documents, each [documents]; NaN for a document of which no token counts."""

    tokens: npt.NDArray[np.int64]  # that were predicted and count
    el2n: Float64s  # the mean error norm of these tokens
    loss: Float64s  # their mean negative log-likelihood, in nats
    accuracy: Float64s  # the share of them that had the highest probability
    grand: Float64s | None = None  # the norm of the gradient of their mean loss


def write_scores(path: Path, origin: ScoreOrigin, hashes: npt.NDArray[np.uint64], scores: DocumentScores) -> None:
    """Write a file completely or not at all. Raises OSError."""
    columns: dict[str, npt.NDArray[Any] | None] = {"hash": hashes, **vars(scores)}
    table = pa.table({name: pa.array(column) for name, column in columns.items() if column is not None})
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as staging:
        pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(origin.to_plain())}), staging)


def read_origin(path: Path) -> ScoreOrigin | None:
    """Return the origin of a file's scores; None if there is no such file, or if `write_scores` did not write it."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return parse(ScoreOrigin, json.loads(metadata[_METADATA]), source=str(path))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
