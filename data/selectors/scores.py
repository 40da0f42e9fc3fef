"""Scores that were written before: by a build that selects, or by anything else that knows the documents' hashes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.selectors.base import SELECTORS, SelectorConfig

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Scorer


@SELECTORS.register
class ScoresConfig(SelectorConfig):
    """Reads scores from parquet files, and joins them to documents by the hashes of their texts.

    A document whose hash is in no file has no score. Of several scores of one hash, the first is taken.
    """

    name: Literal["scores"] = "scores"
    paths: tuple[str, ...] = Field(min_length=1, description="Parquet files of scores; or folders of them, or globs.")
    hash_column: str = Field("hash", description="Name of the column of unsigned 64-bit hashes of the texts.")
    score_column: str = Field("score", description="Name of the column of scores.")

    def files(self) -> Sequence[Path]:
        from data.sources.files import find_input_files

        return find_input_files(self.paths, (".parquet",), key="paths")

    def check(self) -> None:
        from data.selectors.blocks.stored_scores import check_columns

        check_columns(self.files(), self.hash_column, self.score_column)

    def fit(self, targets: Sequence[str], pool: Sequence[str]) -> Arrays:
        """Return `hashes` [scores], sorted, and the `scores` [scores] of these."""
        from data.selectors.blocks.stored_scores import read_scores

        return read_scores(self.files(), self.hash_column, self.score_column)

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        from data.selectors.blocks.stored_scores import StoredScores

        return StoredScores(fitted)

    @classmethod
    def examples(cls) -> tuple[ScoresConfig, ...]:
        """None: the files must exist. tests/data/selectors/test_scores.py writes some."""
        return ()
