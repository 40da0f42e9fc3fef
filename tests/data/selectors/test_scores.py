"""Stored scores, joined by the hashes of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.selectors.scores import ScoresConfig
from settings import UserError


def test_scores_are_joined_by_hash_and_others_have_none(tmp_path: Path) -> None:
    for name, hashes, scores in (("a", [2**64 - 1, 5], [1.5, -2.0]), ("b", [7, 5], [0.25, 9.0])):
        table = {"hash": pa.array(hashes, pa.uint64()), "loss": pa.array(scores, pa.float64())}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    config = ScoresConfig(paths=(str(tmp_path),), score_column="loss")
    config.check()
    scorer = config.prepare((), config.fit((), ()))
    found = scorer.score(["text"] * 4, np.array([5, 6, 7, 2**64 - 1], dtype=np.uint64))
    np.testing.assert_array_equal(found, [-2.0, np.nan, 0.25, 1.5])
    with pytest.raises(UserError, match=r"has no column score of floating-point numbers; its columns are: hash .*loss"):
        ScoresConfig(paths=(str(tmp_path),)).check()


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("nothing")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as parquet"):
        ScoresConfig(paths=(str(tmp_path),)).check()
