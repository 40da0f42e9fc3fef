"""The first step of a build: reads a task's part of a source, and drops what is not a usable document.

data/drop_reasons.py lists the reasons.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.drop_reasons import BINARY, EMPTY, INVALID_UTF8, TOO_LONG
from data.pipeline.input_fingerprint import check_unchanged
from data.pipeline.plan import Task
from data.pipeline.steps.document_files import STAGE
from data.pipeline.steps.hashing import text_hash
from data.pipeline.task_progress import TaskProgress
from data.pipeline.work_folder import Counts, WorkFolder
from data.sources import BadDocument, RawDocument, SourceConfig
from settings import UserError

_MAX_LISTED = 1000  # bad documents by name, for each task; all are counted


class ReadSource(PipelineStep):  # type: ignore[misc]
    """Reads a task's parts. Bad documents are counted and listed, or end the build, as `data.on_bad_document` says."""

    type = "reader"
    name = "source"

    def __init__(
        self,
        work: WorkFolder,
        tasks: tuple[Task, ...],
        sources: dict[str, SourceConfig],
        inputs: dict[str, str],
        *,
        on_bad_document: Literal["skip", "fail"],
        max_document_bytes: int,
    ) -> None:
        super().__init__()
        self.work, self.tasks, self.sources, self.inputs = work, tasks, sources, inputs
        self.on_bad_document, self.max_document_bytes = on_bad_document, max_document_bytes

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield documents with `bytes` and `hash` of their text in the metadata.

        Raises UserError if a file is no longer what it was when the build began.
        """
        task = self.tasks[rank]
        counts = Counts()
        progress = TaskProgress(self.work.progress(STAGE, rank))
        with self.work.bad_documents(rank).open("w", encoding="utf-8") as bad_documents:
            for item in self._items(task):
                content = self._check(item)
                if isinstance(content, BadDocument):
                    if self.on_bad_document == "fail":
                        raise UserError(_bad_document_message(task.source, content))
                    counts[content.reason] += 1
                    if counts.total() <= _MAX_LISTED:
                        bad_documents.write(json.dumps(vars(content), ensure_ascii=False) + "\n")
                    continue
                assert isinstance(item, RawDocument)
                yield Document(item.text, item.where, metadata={"bytes": len(content), "hash": text_hash(content)})
                if progress.add(len(content)) >= task.max_bytes > 0:
                    break
        check_unchanged(task.source, dict.fromkeys(part.path for part in task.parts), self.inputs)
        progress.write()
        Counts(documents=progress.documents, bytes=progress.bytes).write(self.work.report("read", rank))
        counts.write(self.work.report("bad", rank))

    def _items(self, task: Task) -> Iterator[RawDocument | BadDocument]:
        for part in task.parts:
            yield from self.sources[task.source].read(part)

    def _check(self, item: RawDocument | BadDocument) -> bytes | BadDocument:
        """Return the document's UTF-8 bytes, or why it is dropped."""
        if isinstance(item, BadDocument):
            return item
        if not item.text or item.text.isspace():
            return BadDocument(EMPTY, item.where)
        if "\0" in item.text:
            return BadDocument(BINARY, item.where, "holds a zero byte")
        try:
            content = item.text.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
            return BadDocument(INVALID_UTF8, item.where, str(error))
        if len(content) > self.max_document_bytes:
            size = f"{len(content):,} bytes, over data.max_document_bytes = {self.max_document_bytes:,}"
            return BadDocument(TOO_LONG, item.where, size)
        return content


def _bad_document_message(source: str, bad: BadDocument) -> str:
    detail = f" ({bad.detail})" if bad.detail else ""
    return (
        f"data.sources.{source}: {bad.reason} at {bad.where}{detail}; "
        "fix it, or count and leave out such documents with data.on_bad_document=skip"
    )
