"""The scores of a selection: selectors learn from targets and a sample of the pool, then score documents in parallel.

A selection may need several columns of scores: those of the selectors whose ranks are combined, and those of the
selector whose choice is imitated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from data.config import DataConfig
from data.drop_reasons import NOT_SCORED
from data.pipeline.plan import Task
from data.pipeline.selection.pool import Candidate, Pool
from data.pipeline.selection.targets import read_targets
from data.pipeline.steps.encoder import Encoder
from data.pipeline.steps.hashing import sample_key
from data.pipeline.task_progress import TaskProgress
from data.pipeline.work_folder import Counts, WorkFolder, write_report
from data.selectors import SelectorConfig

STAGE = "scores"
_DOCUMENTS_PER_BATCH = 128


def score_columns(selector: SelectorConfig) -> tuple[SelectorConfig, ...]:
    """Return the selectors that score every document: the parts of this one, then those of its reference."""
    return (*selector.parts, *(selector.reference.parts if selector.reference else ()))


def score_records(columns: int) -> np.dtype[Any]:
    """Return the type of the records of scored documents."""
    scores = ("scores", "<f8", (columns,))
    return np.dtype([("number", "<u4"), ("hash", "<u8"), ("bytes", "<u8"), ("tokens", "<u8"), scores])


class FitSelectors(PipelineStep):  # type: ignore[misc]
    """Lets each selector learn from the targets and the sample of the pool, and writes what it learned."""

    type = "selection"
    name = "fit"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig) -> None:
        super().__init__()
        self.work, self.tasks, self.config = work, tasks, config

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the arrays of each column; yield nothing."""
        assert self.config.select is not None
        columns = score_columns(self.config.select.selector)
        targets = [text for _, text in read_targets(self.work)]
        sample = self._sample(max(selector.pool_sample_bytes for selector in columns))
        for column, selector in enumerate(columns):
            pool = _up_to(sample, selector.pool_sample_bytes)
            for name, array in selector.fit(targets, pool).items():
                np.save(self.work.fitted(column) / f"{name}.npy", array, allow_pickle=False)
        yield from ()

    def _sample(self, max_bytes: int) -> list[str]:
        """Return a sample of the pool in the random order of the hashes, each text once."""
        if not max_bytes:
            return []
        pool = Pool(self.work, self.tasks, self.config)
        documents = {document.hash: document.text for rank in range(len(self.tasks)) for document in pool.sample(rank)}
        return _up_to([documents[hash_] for hash_ in sorted(documents, key=sample_key)], max_bytes)


def _up_to(texts: list[str], max_bytes: int) -> list[str]:
    """Return the first texts that have at most so many bytes together, and at least one if there is any."""
    ends = np.cumsum([len(text.encode()) for text in texts])
    return texts[: max(int(np.searchsorted(ends, max_bytes, side="right")), 1)] if max_bytes else []


class ScoreDocuments(PipelineStep):  # type: ignore[misc]
    """Scores a task's documents in the pool, and lists those that leave the pool."""

    type = "selection"
    name = "scores"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig) -> None:
        super().__init__()
        self.work, self.tasks, self.config = work, tasks, config

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the scores; yield nothing."""
        assert self.config.select is not None
        os.putenv("TOKENIZERS_PARALLELISM", "false")  # the tasks run in parallel instead
        columns = score_columns(self.config.select.selector)
        targets = [text for _, text in read_targets(self.work)]
        scorers = [selector.prepare(targets, self._fitted(column)) for column, selector in enumerate(columns)]
        counts_tokens = self.config.select.choose == "tokens"
        encoder = Encoder(self.work.tokenizer, self.config.tokenizer.end_of_text) if counts_tokens else None
        progress = TaskProgress(self.work.progress(STAGE, rank))
        records = [np.empty(0, dtype=score_records(len(columns)))]
        left: list[int] = []
        counts = Counts()
        documents = Pool(self.work, self.tasks, self.config).documents(rank)
        for batch in batched(self._in_pool(documents, left, counts), _DOCUMENTS_PER_BATCH):
            texts = [document.text for document in batch]
            hashes = np.array([document.hash for document in batch], dtype=np.uint64)
            own = np.zeros(len(batch), dtype=score_records(len(columns)))
            own["number"] = [document.number for document in batch]
            own["hash"] = hashes
            own["bytes"] = [len(text.encode()) for text in texts]
            if encoder:  # with the token that ends the document
                own["tokens"] = [len(tokens) // encoder.token_bytes + 1 for tokens in encoder.encode(texts)]
            for column, scorer in enumerate(scorers):
                own["scores"][:, column] = scorer.score(texts, hashes)
            counts[NOT_SCORED] += int(np.isnan(own["scores"]).any(axis=1).sum())
            records.append(own)
            for size in own["bytes"].tolist():
                progress.add(size)
        progress.write()
        np.save(self.work.scores(rank), np.concatenate(records))
        np.save(self.work.left_pool(rank), np.array(left, dtype=np.uint32))
        counts.write(self.work.report(STAGE, rank))
        write_report(self.work.report("described", rank), [dict(scorer.describe()) for scorer in scorers])
        yield from ()

    def _in_pool(self, documents: Iterator[Candidate], left: list[int], counts: Counts) -> Iterator[Candidate]:
        """Yield the documents of the pool; list and count the others."""
        for document in documents:
            if document.leaves_because:
                left.append(document.number)
                counts[document.leaves_because] += 1
            else:
                yield document

    def _fitted(self, column: int) -> dict[str, npt.NDArray[Any]]:
        paths = sorted(self.work.fitted(column).glob("*.npy"))
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in paths}
