"""The first stage of a build: read a source, count what is bad, filter, write what stays; and the way back in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result

from data.config import DataConfig
from data.pipeline.plan import Task
from data.pipeline.steps.hashing import is_held_out, is_sampled, text_hash
from data.pipeline.work_folder import Counts, ProgressNote, WorkFolder
from data.sources import BadDocument, SourceConfig, Text
from data.sources.files import open_binary
from settings import UserError

AttentionMask = Iterator[Document]
STAGE = "documents"
_MOST_LISTED = 1000  # bad documents by name, a task; all are counted
_COMPRESSION_LEVEL = 1


class ReadSource(PipelineStep):  # type: ignore[misc]
    """Reads a task's pieces. What is no document is counted and listed, or ends the build, as the config says."""

    type = "reader"
    name = "source"

    def __init__(
        self,
        work: WorkFolder,
        tasks: tuple[Task, ...],
        sources: dict[str, SourceConfig],
        *,
        on_bad_document: Literal["skip", "fail"],
        max_document_bytes: int,
    ) -> None:
        super().__init__()
        self.work, self.tasks, self.sources = work, tasks, sources
        self.on_bad_document, self.max_document_bytes = on_bad_document, max_document_bytes

    def run(self, data: AttentionMask | None = None, rank: int = 0, world_size: int = 1) -> AttentionMask:
        """Yields documents with `bytes` and `hash` of their text in the metadata."""
        task = self.tasks[rank]
        counts = Counts()
        progress = ProgressNote(self.work.progress(STAGE, rank))
        with self.work.bad_documents(rank).open("w", encoding="utf-8") as listed:
            for item in self._items(task):
                content = self._content(item)
                if isinstance(content, BadDocument):
                    if self.on_bad_document == "fail":
                        raise UserError(_refusal(task.source, content))
                    counts[content.reason] += 1
                    if counts.total() <= _MOST_LISTED:
                        listed.write(json.dumps(vars(content), ensure_ascii=False) + "\n")
                    continue
                assert isinstance(item, Text)
                yield Document(item.text, item.where, metadata={"bytes": len(content), "hash": text_hash(content)})
                if progress.add(len(content)) >= task.max_bytes > 0:
                    break
        progress.write()
        Counts(documents=progress.documents, bytes=progress.bytes).write(self.work.report("read", rank))
        counts.write(self.work.report("bad", rank))

    def _items(self, task: Task) -> Iterator[Text | BadDocument]:
        for piece in task.pieces:
            yield from self.sources[task.source].read(piece)

    def _content(self, item: Text | BadDocument) -> bytes | BadDocument:
        """The document's bytes, or what is wrong with it."""
        if isinstance(item, BadDocument):
            return item
        if not item.text or item.text.isspace():
            return BadDocument("empty", item.where)
        if "\0" in item.text:
            return BadDocument("binary", item.where, "holds a zero byte")
        try:
            content = item.text.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
            return BadDocument("invalid_utf8", item.where, str(error))
        if len(content) > self.max_document_bytes:
            size = f"{len(content):,} bytes, over data.max_document_bytes = {self.max_document_bytes:,}"
            return BadDocument("too_long", item.where, size)
        return content


def _refusal(source: str, bad: BadDocument) -> str:
    detail = f" ({bad.detail})" if bad.detail else ""
    return (
        f"data.sources.{source}: {bad.reason} at {bad.where}{detail}; "
        "mend it, or count and leave out such documents with data.on_bad_document=skip"
    )


class FilterDocuments(PipelineStep):  # type: ignore[misc]
    """Applies the filters of a task's source, one after the other, and counts why documents go."""

    type = "filter"
    name = "filters"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], filters: dict[str, tuple[BaseFilter, ...]]) -> None:
        super().__init__()
        self.work, self.tasks, self.filters = work, tasks, filters

    def run(self, data: AttentionMask, rank: int = 0, world_size: int = 1) -> AttentionMask:
        """Yields what every filter keeps."""
        verdicts = [filter_.filter for filter_ in self.filters[self.tasks[rank].source]]
        counts = Counts()
        for document in data:
            for verdict in verdicts:
                keep, reason = get_filter_result(verdict(document))
                if not keep:
                    counts[reason or "unnamed"] += 1
                    break
            else:
                yield document
        counts.write(self.work.report("filtered", rank))


class WriteDocuments(PipelineStep):  # type: ignore[misc]
    """Writes what stays, and a sample of it that the tokenizer is trained on, without held-out documents."""

    type = "writer"
    name = "documents"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig, *, sample: float) -> None:
        super().__init__()
        self.work, self.tasks, self.config, self.sample = work, tasks, config, sample

    def run(self, data: AttentionMask, rank: int = 0, world_size: int = 1) -> AttentionMask:
        """Yields nothing."""
        counts = Counts()
        level = _COMPRESSION_LEVEL
        held_out = self.config.held_out_fraction_of(self.tasks[rank].source)
        with (
            zstandard.open(self.work.documents(rank), "wb", cctx=zstandard.ZstdCompressor(level)) as documents,
            zstandard.open(self.work.sample(rank), "wb", cctx=zstandard.ZstdCompressor(level)) as sample,
        ):
            for number, document in enumerate(data):
                line = orjson.dumps([document.metadata["hash"], document.text], option=orjson.OPT_APPEND_NEWLINE)
                documents.write(line)
                hash_ = document.metadata["hash"]
                if is_sampled(hash_, self.sample) and not is_held_out(hash_, held_out):
                    sample.write(orjson.dumps([number, document.text], option=orjson.OPT_APPEND_NEWLINE))
                counts["documents"] += 1
                counts["bytes"] += document.metadata["bytes"]
        counts.write(self.work.report("kept", rank))
        yield from ()


class ReadDocuments(PipelineStep):  # type: ignore[misc]
    """Reads a task's documents again, without those that are duplicates."""

    type = "reader"
    name = "documents"

    def __init__(self, work: WorkFolder, *, deduplicated: bool) -> None:
        super().__init__()
        self.work, self.deduplicated = work, deduplicated

    def run(self, data: AttentionMask | None = None, rank: int = 0, world_size: int = 1) -> AttentionMask:
        """Yields documents with the `hash` of their text in the metadata."""
        left_out = self.work.read_duplicates(rank) if self.deduplicated else frozenset()
        with open_binary(self.work.documents(rank)) as lines:
            for number, line in enumerate(lines):
                if number not in left_out:
                    hash_, text = orjson.loads(line)
                    yield Document(text, str(number), metadata={"hash": hash_})


def read_sample(work: WorkFolder, rank: int, *, deduplicated: bool) -> Iterator[str]:
    """The texts of a task that the tokenizer is trained on, without duplicates."""
    left_out = work.read_duplicates(rank) if deduplicated else frozenset()
    with open_binary(work.sample(rank)) as lines:
        for line in lines:
            number, text = orjson.loads(line)
            if number not in left_out:
                yield text
