"""The first step of a build: reads a task's part of a source, and drops what is not a usable document.

data/drop_reasons.py lists the reasons.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.drop_reasons import BINARY, EMPTY, INVALID_UTF8, TOO_LONG, UNREADABLE_FILE
from data.pipeline.input_fingerprint import check_unchanged
from data.pipeline.plan import Task
from data.pipeline.report import BadFile
from data.pipeline.steps.document_files import STAGE
from data.pipeline.steps.hashing import text_hash
from data.pipeline.task_progress import TaskProgress
from data.pipeline.work_folder import Counts, WorkFolder, write_report
from data.sources import BadDocument, RawDocument, SourceConfig
from data.sources.files import printable
from data.sources.zstd import has_large_window
from settings import UserError

_MAX_LISTED = 1000  # bad documents by name, for each task; all are counted


class ReadSource(PipelineStep):  # type: ignore[misc]
    """Reads a task's parts.

    Bad documents are counted and listed, or end the build, as `data.on_bad_document` says; files that cannot be read to
    their end, as `data.on_bad_file` says.
    """

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
        on_bad_file: Literal["skip", "fail"],
        max_document_bytes: int,
    ) -> None:
        super().__init__()
        self.work, self.tasks, self.sources, self.inputs = work, tasks, sources, inputs
        self.on_bad_document, self.on_bad_file = on_bad_document, on_bad_file
        self.max_document_bytes = max_document_bytes

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield documents with `bytes` and `hash` of their text in the metadata.

        Raises UserError if a file is no longer what it was when the build began.
        """
        task = self.tasks[rank]
        counts = Counts()
        bad_files: dict[str, BadFile] = {}
        progress = TaskProgress(self.work.progress(STAGE, rank))
        with self.work.bad_documents(rank).open("w", encoding="utf-8") as bad_documents:
            for path, item in self._items(task):
                content = self._check(item)
                if isinstance(content, BadDocument):
                    content = replace(content, where=printable(content.where), detail=printable(content.detail))
                    if content.reason == UNREADABLE_FILE:
                        check_unchanged(
                            f"data.sources.{task.source}", [path], self.inputs
                        )  # such as a file that was removed meanwhile
                        file = BadFile(bytes=path.stat().st_size, detail=content.detail)
                        if self.on_bad_file == "fail":
                            raise UserError(_bad_file_message(task.source, path, file))
                        bad_files[printable(str(path))] = file
                        continue
                    if self.on_bad_document == "fail":
                        raise UserError(_bad_document_message(task.source, content))
                    counts[content.reason] += 1
                    if counts.total() <= _MAX_LISTED:
                        bad_documents.write(json.dumps(vars(content), ensure_ascii=False) + "\n")
                    continue
                assert isinstance(item, RawDocument)
                yield Document(
                    item.text, printable(item.where), metadata={"bytes": len(content), "hash": text_hash(content)}
                )
                if progress.add(len(content)) >= task.max_bytes > 0:
                    break
        check_unchanged(f"data.sources.{task.source}", dict.fromkeys(part.path for part in task.parts), self.inputs)
        progress.write()
        Counts(documents=progress.documents, bytes=progress.bytes).write(self.work.report("read", rank))
        counts.write(self.work.report("bad", rank))
        write_report(self.work.report("bad_files", rank), {path: file.to_plain() for path, file in bad_files.items()})

    def _items(self, task: Task) -> Iterator[tuple[Path, RawDocument | BadDocument]]:
        """Yield the items of every part, each with the path of its file."""
        for part in task.parts:
            with self._one_large_window_at_a_time(part.path):
                for item in self.sources[task.source].read(replace(part, max_document_bytes=self.max_document_bytes)):
                    yield part.path, item

    @contextmanager
    def _one_large_window_at_a_time(self, path: Path) -> Iterator[None]:
        """Hold a lock, which all tasks of the build share, while a .zst file is read that needs up to 2 GiB."""
        if not (path.name.lower().endswith(".zst") and has_large_window(path)):
            yield
            return
        with self.work.large_window_lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

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


def _bad_file_message(source: str, path: Path, file: BadFile) -> str:
    return (
        f"data.sources.{source}: {printable(str(path))} ({file.bytes:,} bytes) cannot be read to its end: "
        f"{file.detail}; repair it, remove it, or take only its documents before the damage with data.on_bad_file=skip"
    )


def _bad_document_message(source: str, bad: BadDocument) -> str:
    detail = f" ({bad.detail})" if bad.detail else ""
    return (
        f"data.sources.{source}: {bad.reason} at {bad.where}{detail}; "
        "fix it, or count and leave out such documents with data.on_bad_document=skip"
    )
