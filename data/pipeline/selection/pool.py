"""The pool of a selection: the documents to train on that are no targets and no near copies of held-out documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data.config import DataConfig
from data.drop_reasons import NEAR_HELD_OUT, TARGET
from data.pipeline.plan import Task
from data.pipeline.selection.held_out_signatures import EvaluationCopies
from data.pipeline.selection.targets import read_targets
from data.pipeline.steps.document_files import read_lines
from data.pipeline.steps.hashing import is_held_out
from data.pipeline.work_folder import WorkFolder, read_numbers


@dataclass(frozen=True)
class Candidate:
    """A document of the pool, or one that leaves the pool for a reason of data/drop_reasons.py."""

    number: int  # in its task
    hash: int
    text: str
    leaves_because: str = ""


class Pool:
    """Decides which documents are in the pool."""

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig) -> None:
        assert config.select is not None
        self._work, self._tasks, self._config = work, tasks, config
        self._target_hashes = frozenset(hash_ for hash_, _ in read_targets(work))
        self._copies = EvaluationCopies(work, config) if config.select.drop_near_held_out else None

    def documents(self, rank: int) -> Iterator[Candidate]:
        """Yield a task's documents that deduplication keeps and that are not held out."""
        dropped = read_numbers(self._work.dropped(rank)) if self._config.compares_documents else frozenset()
        fraction = self._config.held_out_fraction_of(self._tasks[rank].source)
        for number, (hash_, text) in enumerate(read_lines(self._work.documents(rank))):
            if number not in dropped and not is_held_out(hash_, fraction):
                yield Candidate(number, hash_, text, self._why_it_leaves(hash_, text))

    def sample(self, rank: int) -> Iterator[Candidate]:
        """Yield the documents of a task's sample that are in the pool."""
        dropped = read_numbers(self._work.dropped(rank)) if self._config.compares_documents else frozenset()
        for number, hash_, text in read_lines(self._work.pool_sample(rank)):
            if number not in dropped and not self._why_it_leaves(hash_, text):
                yield Candidate(number, hash_, text)

    def _why_it_leaves(self, hash_: int, text: str) -> str:
        if hash_ in self._target_hashes:
            return TARGET
        if self._copies and (self._copies.has_copy(hash_) or self._copies.has_near_copy(text)):
            return NEAR_HELD_OUT
        return ""
