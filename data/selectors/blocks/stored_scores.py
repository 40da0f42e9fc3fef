"""Files of scores, joined to documents by the hashes of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.selectors.base import Scorer
from settings import UserError


def check_columns(files: Sequence[Path], hash_column: str, score_column: str) -> None:
    """Raise UserError if a file is no parquet file, or has no such columns of unsigned 64-bit numbers and of floats."""
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"data.select.selector: {file} cannot be read as parquet: {error}") from None
        for column, test, kind in (
            (hash_column, pa.types.is_uint64, "unsigned 64-bit numbers"),
            (score_column, pa.types.is_floating, "floating-point numbers"),
        ):
            if column not in schema.names or not test(schema.field(column).type):
                raise UserError(
                    f"data.select.selector: {file} has no column {column} of {kind}; its columns are: "
                    + ", ".join(f"{field.name} ({field.type})" for field in schema)
                )


def read_scores(files: Sequence[Path], hash_column: str, score_column: str) -> dict[str, npt.NDArray[Any]]:
    """Return `hashes` [scores], sorted and each once, and `scores` [scores]; it takes 24 bytes of memory for each."""
    tables = [pq.read_table(file, columns=[hash_column, score_column]) for file in files]
    table = pa.concat_tables(tables)
    hashes = table.column(hash_column).to_numpy().astype(np.uint64)
    scores = table.column(score_column).to_numpy().astype(np.float64)
    unique, first = np.unique(hashes, return_index=True)
    return {"hashes": unique, "scores": scores[first]}


class StoredScores(Scorer):
    """Looks documents up by their hashes."""

    def __init__(self, fitted: Any) -> None:
        self._hashes, self._scores = fitted["hashes"], fitted["scores"]

    def score(self, texts: Sequence[str], hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        found = np.full(len(hashes), np.nan)
        if len(self._hashes):
            places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
            known = self._hashes[places] == hashes
            found[known] = self._scores[places[known]]
        return found

    def describe(self) -> dict[str, Any]:
        return {"stored_scores": len(self._hashes)}
