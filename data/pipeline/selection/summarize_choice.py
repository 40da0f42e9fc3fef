"""What the record of a selection says about each task: the scores as a file, and counts, examples and a sample."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.config import SELECTION_FOLDER, DataConfig
from data.pipeline.plan import Task
from data.pipeline.steps.document_files import read_lines
from data.pipeline.steps.hashing import is_sampled
from data.pipeline.steps.minhash import MinHash
from data.pipeline.work_folder import WorkFolder, read_report, write_report

STAGE = "record"
SCORE_BINS = 60
LENGTH_BINS_PER_DOUBLING = 2
LENGTH_BINS = 40 * LENGTH_BINS_PER_DOUBLING  # up to 2^40 bytes
EXAMPLES = 10  # of each kind and source
SAMPLE_DOCUMENTS = 2000  # of the chosen documents, and of the pool, in which near duplicates are counted
_SAMPLE_MARGIN = 1.5
_EXCERPT_CHARACTERS = 400
_COMPRESSION_LEVEL = 6


class SummarizeChoice(PipelineStep):  # type: ignore[misc]
    """Writes the scores of a task's documents, and a summary that the record of the selection adds up."""

    type = "selection"
    name = "record"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig) -> None:
        super().__init__()
        assert config.select is not None
        self.work, self.tasks, self.select = work, tasks, config.select
        self.minhash = MinHash(config.deduplicate)

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the summary; yield nothing."""
        choice = np.load(self.work.choice(rank))
        self._write_scores(rank, choice)
        chosen = choice[choice["chosen"]]
        everywhere = read_report(self.work.report("choice", 0))
        cells = [_cells(documents, everywhere["lowest"], everywhere["highest"]) for documents in (choice, chosen)]
        np.save(self.work.score_cells(rank), np.stack(cells))
        examples = self._examples(choice)
        samples = [_sample(choice, everywhere["pool"]), _sample(chosen, everywhere["chosen"])]
        wanted = {number for numbers in (*examples.values(), *samples) for number in numbers}
        texts = {
            number: text for number, (_, text) in enumerate(read_lines(self.work.documents(rank))) if number in wanted
        }
        by_number = {int(document["number"]): document for document in choice[np.isin(choice["number"], list(wanted))]}
        summary = {
            "pool": _totals(choice),
            "chosen": _totals(chosen),
            "examples": {
                kind: [_example(by_number[number], texts[number]) for number in numbers]
                for kind, numbers in examples.items()
            },
            "samples": [[self._sampled(texts[number], by_number[number]) for number in sample] for sample in samples],
        }
        write_report(self.work.report(STAGE, rank), summary)
        yield from ()

    def _write_scores(self, rank: int, choice: Any) -> None:
        task = self.tasks[rank]
        folder = self.work.shards / SELECTION_FOLDER / "scores" / task.source
        folder.mkdir(parents=True, exist_ok=True)
        table = {
            "hash": _column(choice["hash"], pa.uint64()),
            "score": _column(choice["score"], pa.float64()),
            "bytes": _column(choice["bytes"], pa.uint64()),
            "chosen": _column(np.packbits(choice["chosen"], bitorder="little"), pa.bool_(), length=len(choice)),
        }
        pq.write_table(pa.table(table), folder / f"{task.number:05d}.parquet")

    def _examples(self, choice: Any) -> dict[str, list[int]]:
        """Return the numbers of the documents of the highest and lowest scores, and of those next to the limit.

        The documents that the choice skips come before the first chosen one, so they are not next to the limit.
        """
        scored = choice[~np.isnan(choice["score"])]
        highest = scored[np.lexsort((scored["hash"], -scored["score"]))]
        examples = {"highest": highest[:EXAMPLES], "lowest": highest[::-1][:EXAMPLES]}
        if self.select.chooses:
            best_first = highest if self.select.order == "highest" else highest[::-1]
            examples["last_chosen"] = best_first[best_first["chosen"]][::-1][: EXAMPLES // 2]
            is_skipped = ~np.logical_or.accumulate(best_first["chosen"]) & (self.select.skip > 0)
            examples["first_not_chosen"] = best_first[~best_first["chosen"] & ~is_skipped][: EXAMPLES // 2]
        return {kind: documents["number"].tolist() for kind, documents in examples.items()}

    def _sampled(self, text: str, document: Any) -> dict[str, Any]:
        content = text.encode()
        return {
            "hash": int(document["hash"]),
            "buckets": self.minhash.bucket_hashes(text).tolist(),
            "bytes": len(content),
            "compressed": len(zlib.compress(content, _COMPRESSION_LEVEL)),
        }


def _column(values: npt.NDArray[Any], kind: pa.DataType, *, length: int | None = None) -> pa.Array:
    """Return an Arrow array of the values; pa.array would import pandas, which takes a second of each task."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values) if length is None else length, [None, buffer])


def _totals(choice: Any) -> dict[str, int]:
    return {"documents": len(choice), "bytes": int(choice["bytes"].sum())}


def _cells(choice: Any, low: float, high: float) -> npt.NDArray[np.int64]:
    """Count documents by length and score, [length bins, score bins]; those without a finite score are left out."""
    finite = choice[np.isfinite(choice["score"])]
    lengths = (np.log2(np.maximum(finite["bytes"], 1)) * LENGTH_BINS_PER_DOUBLING).astype(np.int64)
    width = (high - low) / SCORE_BINS or 1.0
    scores = np.clip((finite["score"] - low) / width, 0, SCORE_BINS - 1).astype(np.int64)
    cells = np.zeros((LENGTH_BINS, SCORE_BINS), dtype=np.int64)
    np.add.at(cells, (np.minimum(lengths, LENGTH_BINS - 1), scores), 1)
    return cells


def _sample(choice: Any, documents: int) -> list[int]:
    """Return the numbers of a task's documents in a sample of `documents`, those of all tasks, by their hashes.

    All tasks together return somewhat more than SAMPLE_DOCUMENTS, of which the first ones are the sample.
    """
    fraction = min(1.0, _SAMPLE_MARGIN * SAMPLE_DOCUMENTS / max(documents, 1))
    pairs = zip(choice["hash"].tolist(), choice["number"].tolist(), strict=True)
    return [number for hash_, number in pairs if is_sampled(hash_, fraction)]


def _example(document: Any, text: str) -> dict[str, Any]:
    return {
        "score": float(document["score"]),
        "hash": int(document["hash"]),
        "bytes": int(document["bytes"]),
        "text": text[:_EXCERPT_CHARACTERS],
    }
