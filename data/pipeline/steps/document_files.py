"""The documents that passed the filters, as compressed files of the work folder: written once and read back."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.pipeline.plan import Task
from data.pipeline.steps.hashing import is_held_out, is_sampled
from data.pipeline.work_folder import Counts, WorkFolder
from data.sources.files import open_binary

STAGE = "documents"  # the name of the stage that reads, filters and writes documents
_COMPRESSION_LEVEL = 1


class WriteDocuments(PipelineStep):  # type: ignore[misc]
    """Writes documents, and a sample of them without held-out documents, on which the tokenizer is trained."""

    type = "writer"
    name = "documents"

    def __init__(
        self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig, *, sample_fraction: float
    ) -> None:
        super().__init__()
        self.work, self.tasks, self.config, self.sample_fraction = work, tasks, config, sample_fraction

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Consume the documents; yield nothing."""
        counts = Counts()
        level = _COMPRESSION_LEVEL
        held_out_fraction = self.config.held_out_fraction_of(self.tasks[rank].source)
        with (
            zstandard.open(self.work.documents(rank), "wb", cctx=zstandard.ZstdCompressor(level)) as documents,
            zstandard.open(self.work.sample(rank), "wb", cctx=zstandard.ZstdCompressor(level)) as sample,
        ):
            for number, document in enumerate(data):
                hash_ = document.metadata["hash"]
                documents.write(orjson.dumps([hash_, document.text], option=orjson.OPT_APPEND_NEWLINE))
                if is_sampled(hash_, self.sample_fraction) and not is_held_out(hash_, held_out_fraction):
                    sample.write(orjson.dumps([number, document.text], option=orjson.OPT_APPEND_NEWLINE))
                counts["documents"] += 1
                counts["bytes"] += document.metadata["bytes"]
        counts.write(self.work.report("kept", rank))
        yield from ()


class ReadDocuments(PipelineStep):  # type: ignore[misc]
    """Reads a task's documents back, without those that the comparison of documents dropped."""

    type = "reader"
    name = "documents"

    def __init__(self, work: WorkFolder, *, compared: bool) -> None:
        super().__init__()
        self.work, self.compared = work, compared

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield documents with the `hash` of their text in the metadata."""
        dropped = self.work.read_dropped(rank) if self.compared else frozenset()
        with open_binary(self.work.documents(rank)) as lines:
            for number, line in enumerate(lines):
                if number not in dropped:
                    hash_, text = orjson.loads(line)
                    yield Document(text, str(number), metadata={"hash": hash_})


def read_sample(work: WorkFolder, rank: int, *, compared: bool) -> Iterator[str]:
    """Yield a task's texts on which the tokenizer is trained, without those that the comparison dropped."""
    dropped = work.read_dropped(rank) if compared else frozenset()
    with open_binary(work.sample(rank)) as lines:
        for line in lines:
            number, text = orjson.loads(line)
            if number not in dropped:
                yield text
