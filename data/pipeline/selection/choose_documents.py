"""The choice of a selection: one task orders the documents of the pool by their scores, and takes the first ones.

All is read from files of the tasks. The ranks of a combined selector take 24 bytes of memory for each document, and all
other choices none that grows with the pool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.drop_reasons import NOT_CHOSEN, NOT_SCORED
from data.pipeline.plan import Task
from data.pipeline.selection.ranking import (
    Bools,
    Float64s,
    Int64s,
    RankedTask,
    descending_keys,
    take_first,
    total_weights,
)
from data.pipeline.work_folder import Counts, WorkFolder, read_report, write_report
from data.select_config import SelectConfig
from data.selectors import SelectorConfig
from data.selectors.blocks.seeded_uniform import seeded_uniform
from settings import UserError

STAGE = "choice"
_NOT_SCORED_GROUP = 0  # of documents without a score, of which nothing is taken
_DRAW = 2**32  # seeds from here on are those of draws, so that none is the seed of a selector's random scores
CHOICE = np.dtype([("number", "<u4"), ("hash", "<u8"), ("bytes", "<u8"), ("score", "<f8"), ("chosen", "?")])


class ChooseDocuments(PipelineStep):  # type: ignore[misc]
    """Chooses documents over all tasks, and lists for each task those that are not selected."""

    type = "selection"
    name = "choice"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig) -> None:
        super().__init__()
        assert config.select is not None
        self.work, self.select = work, config.select
        sources = list(config.sources)
        self.source_numbers = [sources.index(task.source) for task in tasks]

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the choice, and the numbers and the counts of documents that are not selected; yield nothing."""
        assert world_size == 1, "the choice spans all tasks"
        selector = self.select.selector
        scores = _FinalScores(self.work, selector, tasks=len(self.source_numbers), first_column=0)
        pool = _ScoredPool(self.work, self.source_numbers, self.select, scores)
        if not self.select.chooses:
            flags = pool.all()
        elif selector.reference:
            imitated = _FinalScores(
                self.work, selector.reference, tasks=len(self.source_numbers), first_column=len(selector.parts)
            )
            reference = _ScoredPool(self.work, self.source_numbers, self.select, imitated)
            flags = pool.imitate(selector, reference.choose())
        else:
            flags = pool.choose()
        counts = Counts(pool=0, chosen=0)
        lowest, highest = math.inf, -math.inf
        for task, chosen in enumerate(flags):
            own = scores(task)
            self._write(task, own, chosen)
            counts.update(pool=len(chosen), chosen=int(chosen.sum()))
            finite = own[np.isfinite(own)]
            lowest, highest = min(lowest, finite.min(initial=math.inf)), max(highest, finite.max(initial=-math.inf))
        if self.select.chooses and not counts["chosen"]:
            scores_are = "none has a score" if lowest > highest else f"their scores are {lowest:.6g} to {highest:.6g}"
            raise UserError(
                f"data.select chooses none of {counts['pool']:,} documents: {scores_are}; change data.select.amount or "
                "data.select.threshold"
            )
        if lowest > highest:  # no document has a finite score
            lowest = highest = 0.0
        write_report(self.work.report(STAGE, 0), {**counts, "lowest": float(lowest), "highest": float(highest)})
        yield from ()

    def _write(self, task: int, scores: Float64s, chosen: Bools) -> None:
        records = np.load(self.work.scores(task), mmap_mode="r")
        choice = np.empty(len(records), dtype=CHOICE)
        for field in ("number", "hash", "bytes"):
            choice[field] = records[field]
        choice["score"], choice["chosen"] = scores, chosen
        np.save(self.work.choice(task), choice)
        counts = Counts(read_report(self.work.report("scores", task)))
        left = np.load(self.work.left_pool(task))
        if self.select.chooses:
            not_scored = counts[NOT_SCORED]
            counts[NOT_CHOSEN] = len(chosen) - int(chosen.sum()) - not_scored
            left = np.concatenate((left, records["number"][~chosen]))
        else:
            del counts[NOT_SCORED]  # such documents stay
        np.save(self.work.not_selected(task), left)
        counts.write(self.work.report("not_selected", task))


class _FinalScores:
    """The score of each document by a selector; by the mean rank, from 0 to 1, if the selector has several parts."""

    def __init__(self, work: WorkFolder, selector: SelectorConfig, *, tasks: int, first_column: int) -> None:
        self._work, self._first_column = work, first_column
        self._is_combined = len(selector.parts) > 1
        if self._is_combined:
            self._write_mean_ranks(len(selector.parts), tasks)

    def __call__(self, task: int) -> Float64s:
        """Return the scores of a task's documents, [documents]."""
        if self._is_combined:
            ranks: Float64s = np.load(self._work.mean_ranks(self._first_column, task), mmap_mode="r")
            return ranks
        return self._column(self._first_column, task)

    def _column(self, column: int, task: int) -> Float64s:
        scores: Float64s = np.load(self._work.scores(task), mmap_mode="r")["scores"][:, column]
        return scores

    def _write_mean_ranks(self, parts: int, tasks: int) -> None:
        for part in range(parts):
            column = self._first_column + part
            all_scores = np.concatenate([self._column(column, task) for task in range(tasks)])
            all_scores = np.sort(all_scores[~np.isnan(all_scores)])
            for task in range(tasks):
                own = self._column(column, task)
                before = np.searchsorted(all_scores, own, side="left")
                ranks = (before + np.searchsorted(all_scores, own, side="right")) / 2 / max(len(all_scores), 1) / parts
                ranks[np.isnan(own)] = np.nan
                path = self._work.mean_ranks(self._first_column, task)
                np.save(path, ranks + np.load(path) if part else ranks)


class _ScoredPool:
    """The documents of the pool with their scores, and how to choose among them."""

    def __init__(self, work: WorkFolder, source_numbers: list[int], select: SelectConfig, scores: _FinalScores) -> None:
        self._work, self._source_numbers, self._select, self._scores = work, source_numbers, select, scores

    def all(self) -> Iterator[Bools]:
        """Yield for each task that every document is chosen."""
        for task in range(len(self._source_numbers)):
            yield np.ones(len(self._records(task)), dtype=np.bool_)

    def choose(self) -> Iterator[Bools]:
        """Yield for each task which of its documents are chosen."""
        select = self._select
        if select.threshold is not None:
            for task in range(len(self._source_numbers)):
                scores = self._scores(task)
                yield scores >= select.threshold if select.order == "highest" else scores <= select.threshold
            return
        totals = total_weights(self._ranked(), groups=max(self._source_numbers) + 2)
        totals[_NOT_SCORED_GROUP] = 0
        skipped = (totals * select.skip).astype(np.int64)
        behind_skipped = take_first(self._ranked, skipped)
        for band, before in zip(take_first(self._ranked, skipped + self._limits(totals)), behind_skipped, strict=True):
            yield band & ~before

    def imitate(self, selector: SelectorConfig, reference: Iterator[Bools]) -> Iterator[Bools]:
        """Yield for each task which of its documents are chosen: as much of each stratum as the reference chooses."""
        limits = np.zeros(1, dtype=np.int64)
        for task, chosen in enumerate(reference):
            records = self._records(task)
            strata = self._strata(selector, task, records)
            own = np.zeros(max(len(limits), int(strata.max(initial=0)) + 1), dtype=np.int64)
            own[: len(limits)] = limits
            np.add.at(own, strata[chosen], self._weights(records)[chosen])
            limits = own
        yield from take_first(lambda: self._ranked(selector), limits)

    def _limits(self, totals: Int64s) -> Int64s:
        """Return what each group gives: its share of the amount, in proportion to its total."""
        amount, total = self._select.amount, int(totals.sum())
        assert amount is not None
        if self._select.choose == "share":
            return (totals * amount).astype(np.int64)
        return np.array([min(int(amount), total) * int(own) // max(total, 1) for own in totals], dtype=np.int64)

    def _ranked(self, strata_of: SelectorConfig | None = None) -> Iterator[RankedTask]:
        """Yield the documents of each task in the order of the choice, in groups of sources or of strata."""
        for task, source in enumerate(self._source_numbers):
            records = self._records(task)
            if strata_of:
                groups = self._strata(strata_of, task, records)
            else:
                groups = np.full(len(records), 1 + source * self._select.per_source, dtype=np.int64)
            scores = self._scores(task)
            groups[np.isnan(scores)] = _NOT_SCORED_GROUP
            keys = descending_keys(self._preference(scores, records["hash"], imitates=bool(strata_of)))
            yield RankedTask(np.stack((keys, records["hash"]), axis=1), groups, self._weights(records))

    def _preference(self, scores: Float64s, hashes: Any, *, imitates: bool) -> Float64s:
        """Return the value by which documents are ordered, the highest first."""
        select = self._select
        if imitates:
            return scores
        preference = -scores if select.order == "lowest" else scores + 0.0
        if select.temperature:
            preference = preference / select.temperature - np.log(-np.log(seeded_uniform(hashes, _DRAW + select.seed)))
        return preference

    def _strata(self, selector: SelectorConfig, task: int, records: Any) -> Int64s:
        return 1 + selector.strata(source=self._source_numbers[task], text_bytes=np.asarray(records["bytes"]))

    def _weights(self, records: Any) -> Int64s:
        if self._select.choose in ("documents", "threshold"):
            return np.ones(len(records), dtype=np.int64)
        weights: Int64s = records["tokens" if self._select.choose == "tokens" else "bytes"].astype(np.int64)
        return weights

    def _records(self, task: int) -> Any:
        return np.load(self._work.scores(task), mmap_mode="r")
