"""Folders of text files: a file is a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from data.sources.base import SOURCES, BadDocument, Piece, SourceConfig, Text
from data.sources.files import UNREADABLE, find_input_files, open_binary, text_bytes


def decode_text(content: bytes, where: str) -> Text | BadDocument:
    """A whole file's bytes as a document: UTF-8, and without zero bytes, which no text has."""
    if b"\0" in content:
        return BadDocument("binary", where, "holds a zero byte")
    try:
        return Text(content.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        return BadDocument("invalid_utf8", where, str(error))


def read_text_file(path: Path, where: str) -> Text | BadDocument:
    """Read one file whole."""
    try:
        with open_binary(path) as file:
            return decode_text(file.read(), where)
    except UNREADABLE as error:
        return BadDocument("unreadable_file", where, str(error))


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

    def pieces(self, piece_bytes: int) -> Sequence[Piece]:
        """A file is a piece."""
        return [Piece(file, text_bytes(file)) for file in self.files()]

    def read(self, piece: Piece) -> Iterator[Text | BadDocument]:
        yield read_text_file(piece.path, str(piece.path))
