"""Text files: each file is a document."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from data.drop_reasons import BINARY, INVALID_UTF8, UNREADABLE_FILE
from data.sources.base import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.files import UNREADABLE, find_input_files, open_binary, text_bytes


def decode_text(content: bytes, where: str) -> RawDocument | BadDocument:
    """Decode the bytes of a file as one document, which must be UTF-8 without zero bytes."""
    if b"\0" in content:
        return BadDocument(BINARY, where, "holds a zero byte")
    try:
        return RawDocument(content.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        return BadDocument(INVALID_UTF8, where, str(error))


def read_text_file(path: Path, where: str) -> RawDocument | BadDocument:
    """Read one file as one document."""
    try:
        with open_binary(path) as file:
            return decode_text(file.read(), where)
    except UNREADABLE as error:
        return BadDocument(UNREADABLE_FILE, where, str(error))


@SOURCES.register
class TextFilesConfig(SourceConfig):
    """Text files, plain, .gz or .zst: a file is a document."""

    name: Literal["text"] = "text"
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or glob patterns.")
    suffixes: tuple[str, ...] = Field(
        (".txt", ".txt.gz", ".txt.zst", ".md"), min_length=1, description="Endings of the files to take from folders."
    )

    def files(self) -> Sequence[Path]:
        return find_input_files(self.paths, self.suffixes, key="paths")

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Return one part per file."""
        return [InputPart(file, text_bytes(file)) for file in self.files()]

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        yield read_text_file(part.path, str(part.path))

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
