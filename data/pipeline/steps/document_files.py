"""The documents that passed the filters, as compressed files of the work folder: written once and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.pipeline.plan import Task
from data.pipeline.steps.hashing import is_held_out, is_sampled
from data.pipeline.work_folder import Counts, WorkFolder, read_numbers
from data.sources.files import open_binary

STAGE = "documents"  # the name of the stage that reads, filters and writes documents
_COMPRESSION_LEVEL = 1


class WriteDocuments(PipelineStep):  # type: ignore[misc]
    """Writes documents, and samples of them without held-out documents: for the tokenizer's training and for selectors.

    Both samples are decided by the hash of a document, so the larger one contains the smaller one.
    """

    type = "writer"
    name = "documents"

    def __init__(
        self,
        work: WorkFolder,
        tasks: tuple[Task, ...],
        config: DataConfig,
        *,
        sample_fraction: float,
        pool_sample_fraction: float,
    ) -> None:
        super().__init__()
        self.work, self.tasks, self.config = work, tasks, config
        self.sample_fraction, self.pool_sample_fraction = sample_fraction, pool_sample_fraction

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Consume the documents; yield nothing."""
        counts = Counts()
        held_out_fraction = self.config.held_out_fraction_of(self.tasks[rank].source)
        with (
            write_lines(self.work.documents(rank)) as documents,
            write_lines(self.work.sample(rank)) as sample,
            write_lines(self.work.pool_sample(rank)) as pool_sample,
        ):
            for number, document in enumerate(data):
                hash_ = document.metadata["hash"]
                documents.write(as_line([hash_, document.text]))
                if not is_held_out(hash_, held_out_fraction):
                    if is_sampled(hash_, self.sample_fraction):
                        sample.write(as_line([number, document.text]))
                    if is_sampled(hash_, self.pool_sample_fraction):
                        pool_sample.write(as_line([number, hash_, document.text]))
                counts["documents"] += 1
                counts["bytes"] += document.metadata["bytes"]
        counts.write(self.work.report("kept", rank))
        yield from ()


class ReadDocuments(PipelineStep):  # type: ignore[misc]
    """Reads a task's documents back, without those of the files of numbers that `excluded` returns for the task."""

    type = "reader"
    name = "documents"

    def __init__(self, work: WorkFolder, *, excluded: Sequence[Callable[[int], Path]]) -> None:
        super().__init__()
        self.work, self.excluded = work, excluded

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield documents with the `hash` of their text in the metadata; the id is the number in the task."""
        excluded = frozenset[int]().union(*(read_numbers(numbers(rank)) for numbers in self.excluded))
        for number, (hash_, text) in enumerate(read_lines(self.work.documents(rank))):
            if number not in excluded:
                yield Document(text, str(number), metadata={"hash": hash_})


def read_sample(work: WorkFolder, rank: int, *, compared: bool) -> Iterator[str]:
    """Yield a task's texts on which the tokenizer is trained, without those that the comparison dropped."""
    dropped = read_numbers(work.dropped(rank)) if compared else frozenset()
    for number, text in read_lines(work.sample(rank)):
        if number not in dropped:
            yield text


def write_lines(path: Path) -> Any:
    """Open a compressed file to write lines to."""
    return zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(_COMPRESSION_LEVEL))


def as_line(values: list[Any]) -> bytes:
    """Return a line of such a file."""
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


def read_lines(path: Path) -> Iterator[list[Any]]:
    """Yield the values of each line of such a file."""
    with open_binary(path) as lines:
        for line in lines:
            yield orjson.loads(line)
