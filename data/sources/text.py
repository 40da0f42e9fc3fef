"""Text files: each file is a document."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from data.drop_reasons import BINARY, INVALID_UTF8, TOO_LONG, UNREADABLE_FILE
from data.sources.base import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.files import UNREADABLE, count_unread, find_input_files, open_binary, text_bytes

_BYTE_ORDER_MARK_BYTES = 3


def decode_text(content: bytes, where: str) -> RawDocument | BadDocument:
    """Decode the bytes of a file as one document, which must be UTF-8 without zero bytes."""
    if b"\0" in content:
        return BadDocument(BINARY, where, "holds a zero byte")
    try:
        return RawDocument(content.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        return BadDocument(INVALID_UTF8, where, str(error))


def read_text_file(path: Path, where: str, *, max_bytes: int | None = None) -> RawDocument | BadDocument:
    """Read one file as one document, which is bad if it has more than `max_bytes`; no more than that is read."""
    limit = -1 if max_bytes is None else max_bytes + _BYTE_ORDER_MARK_BYTES
    try:
        with open_binary(path) as file:
            content = file.read(limit + 1 if limit >= 0 else -1)
        if 0 <= limit < len(content):
            return BadDocument(TOO_LONG, where, f"more than data.max_document_bytes = {max_bytes:,}")
        return decode_text(content, where)
    except UNREADABLE as error:
        return BadDocument(UNREADABLE_FILE, where, str(error))


@SOURCES.register
class TextFilesConfig(SourceConfig):
    """Text files, plain or compressed: a file is a document."""

    name: Literal["text"] = "text"
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or glob patterns.")
    suffixes: tuple[str, ...] = Field(
        (".txt", ".txt.gz", ".txt.zst", ".md"), min_length=1, description="Endings of the files to take from folders."
    )

    def files(self) -> Sequence[Path]:
        return find_input_files(self.paths, self.suffixes, key="paths")

    def unread(self) -> Mapping[str, int]:
        return count_unread(self.paths, self.suffixes, key="paths")

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Return one part per file."""
        return [InputPart(file, text_bytes(file)) for file in self.files()]

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        yield read_text_file(part.path, str(part.path), max_bytes=part.max_document_bytes)

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        for number, text in enumerate(documents):
            path = folder / f"{number // 100}" / f"{number:04d}.txt"
            path.parent.mkdir(exist_ok=True)
            if number % 3:
                path.write_text(text, newline="")
            else:
                path.with_suffix(".txt.gz").write_bytes(gzip.compress(text.encode()))
        return cls(paths=(str(folder),))
