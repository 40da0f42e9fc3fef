"""Selectors by the scores that `lehr score` computes with models, joined to documents by the hashes of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field

from data.selectors.base import SelectorConfig

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Float64s, Scorer
    from data.selectors.blocks.trajectories import Trajectory


class ModelScoresConfig(SelectorConfig):
    """Scores a document by the checkpoints of one or more runs, and takes the mean over the runs.

    A document that some checkpoint of a run did not score has no score by this run; one that no run scored has none.
    """

    paths: tuple[str, ...] = Field(
        min_length=1,
        description="Files that `lehr score` wrote; or folders of them, or globs. All checkpoints found there count.",
    )

    def files(self) -> Sequence[Path]:
        from data.sources.files import find_input_files

        return find_input_files(self.paths, (".parquet",), key="data.select.selector.paths")

    def check(self) -> None:
        from data.selectors.blocks.trajectories import origins_of

        origins_of(self.files())

    def score_run(self, trajectory: Trajectory) -> Float64s:
        """Return the scores [documents] of the documents of a run's trajectory."""
        raise AssertionError(f"{type(self).__name__} has no score_run")

    def fit(self, targets: Sequence[str], pool: Sequence[str]) -> Arrays:
        """Return `hashes` [documents], sorted, and the `scores` [documents] of these."""
        from data.selectors.blocks.trajectories import mean_over_runs, read_trajectories

        trajectories = read_trajectories(self.files())
        hashes, scores = mean_over_runs(trajectories, [self.score_run(trajectory) for trajectory in trajectories])
        return {"hashes": hashes, "scores": scores}

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        from data.selectors.blocks.stored_scores import StoredScores

        return StoredScores(fitted)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """None: the files must exist. tests/data/selectors/test_model_scores.py writes some."""
        return ()
