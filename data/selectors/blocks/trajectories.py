"""Files of model scores, joined to the trajectory of each run: its documents' scores, checkpoint by checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from data.score_files import ScoreOrigin, read_origin
from settings import UserError

if TYPE_CHECKING:
    from data.selectors.base import Float64s, Int64s, UInt64s


@dataclass(frozen=True)
class Trajectory:
    """The documents that every checkpoint of one run scored, each once, and where their scores are."""

    run: str
    files: dict[int, list[Path]]  # by step, ascending
    hashes: UInt64s  # [documents], ascending
    sources: Int64s  # [documents]: a number of the document's source

    def scores(self, column: str) -> Iterator[Float64s]:
        """Yield the scores [documents] of one checkpoint after the other."""
        for files in self.files.values():
            hashes, scores = _read(files, column)
            yield scores[np.searchsorted(hashes, self.hashes)]


def origins_of(files: Sequence[Path]) -> dict[Path, ScoreOrigin]:
    """Return the origin of each file's scores.

    Raises UserError if `lehr score` did not write a file, or if two checkpoints have the same run name and step.
    """
    origins: dict[Path, ScoreOrigin] = {}
    checkpoints: dict[tuple[str, int], str] = {}
    for file in files:
        origin = read_origin(file)
        if origin is None:
            raise UserError(f"data.select.selector: {file} holds no scores that `lehr score` has written")
        known = checkpoints.setdefault((origin.run, origin.step), origin.checkpoint_sha256)
        if known != origin.checkpoint_sha256:
            raise UserError(
                f"data.select.selector: {file} is of another checkpoint than other files of step {origin.step} of the "
                f"run {origin.run}: score the shards again into an empty folder, or give the runs different names"
            )
        origins[file] = origin
    return origins


def read_trajectories(files: Sequence[Path]) -> list[Trajectory]:
    """Return the trajectory of each run, by name. Raises what `origins_of` raises."""
    origins = origins_of(files)
    source_numbers = {name: number for number, name in enumerate(sorted({each.source for each in origins.values()}))}
    by_run: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file, origin in origins.items():
        by_run[origin.run][origin.step].append(file)
    trajectories = []
    for run, by_step in sorted(by_run.items()):
        steps = dict(sorted(by_step.items()))
        common = reduce(np.intersect1d, (_read(of_step, "loss")[0] for of_step in steps.values()))
        sources = np.zeros(len(common), dtype=np.int64)
        for file in next(iter(steps.values())):
            hashes, _ = _read([file], "loss")
            sources[np.isin(common, hashes, assume_unique=True)] = source_numbers[origins[file].source]
        trajectories.append(Trajectory(run, steps, common, sources))
    return trajectories


def mean_over_steps(trajectory: Trajectory, column: str) -> Float64s:
    """Return the mean score [documents] over the checkpoints of a run."""
    total = np.zeros(len(trajectory.hashes))
    for scores in trajectory.scores(column):
        total += scores
    return total / len(trajectory.files)


def mean_over_runs(trajectories: Sequence[Trajectory], scores_by_run: Sequence[Float64s]) -> tuple[UInt64s, Float64s]:
    """Return the documents that some run scored, by ascending hash, and the mean of their scores over these runs.

    `scores_by_run` has the scores of each trajectory's documents.
    """
    hashes = np.concatenate([trajectory.hashes for trajectory in trajectories])
    scores = np.concatenate(scores_by_run)
    unique, places = np.unique(hashes, return_inverse=True)
    return unique, np.bincount(places, scores, len(unique)) / np.bincount(places, minlength=len(unique))


def _read(files: Sequence[Path], column: str) -> tuple[UInt64s, Float64s]:
    """Return the documents of files with a token that counts, by ascending hash and each once, and their scores."""
    tables = [pq.read_table(file, columns=["hash", "tokens", column]) for file in files]
    hashes, tokens, scores = (
        np.concatenate([table.column(name).to_numpy() for table in tables]) for name in ("hash", "tokens", column)
    )
    unique, first = np.unique(hashes[tokens > 0], return_index=True)
    return unique, scores[tokens > 0][first]
