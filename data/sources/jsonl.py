"""JSON lines: one object a line, plain or compressed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import Field

from data.sources.base import SOURCES, BadDocument, Piece, SourceConfig, Text
from data.sources.files import UNREADABLE, find_input_files, is_compressed, open_binary, text_bytes

_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst", ".json.gz")
_LINES_A_TURN = 256
_MOST_PARTS = 64  # every part of a compressed file decompresses the whole of it
_LONGEST_LINE = 1 << 30


@SOURCES.register
class JsonLinesConfig(SourceConfig):
    """JSON lines, plain, .gz or .zst: a line is a document, its text in `text_field`."""

    name: Literal["jsonl"] = "jsonl"
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or glob patterns.")
    text_field: str = Field("text", description="The field of each object that holds the text.")

    def files(self) -> Sequence[Path]:
        return find_input_files(self.paths, _SUFFIXES, key="paths")

    def pieces(self, piece_bytes: int) -> Sequence[Piece]:
        """Plain files in ranges of bytes; compressed ones in turns of 256 lines."""
        pieces = []
        for file in self.files():
            size = text_bytes(file)
            parts = max(1, round(size / piece_bytes))
            if is_compressed(file):
                parts = min(parts, _MOST_PARTS)
            pieces += [Piece(file, size // parts, part, parts) for part in range(parts)]
        return pieces

    def read(self, piece: Piece) -> Iterator[Text | BadDocument]:
        try:
            with open_binary(piece.path) as file:
                lines = _turns(file, piece) if is_compressed(piece.path) else _byte_range(file, piece)
                for where, line in lines:
                    if document := self._parse(line, where):
                        yield document
        except UNREADABLE as error:
            yield BadDocument("unreadable_file", str(piece.path), str(error))

    def _parse(self, line: bytes, where: str) -> Text | BadDocument | None:
        import orjson

        if not line.strip():
            return None  # such as the end of the last line: nothing that could have been a document
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return _why_broken(line, where, str(error))
        if not isinstance(values, dict) or self.text_field not in values:
            return BadDocument("missing_field", where, f'no field "{self.text_field}"')
        text = values[self.text_field]
        if not isinstance(text, str):
            return BadDocument("missing_field", where, f'"{self.text_field}" is {type(text).__name__}, not text')
        return Text(text, where)


def _why_broken(line: bytes, where: str, detail: str) -> BadDocument:
    if b"\0" in line:
        return BadDocument("binary", where, "holds a zero byte")
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return BadDocument("invalid_utf8", where, str(error))
    return BadDocument("broken_json", where, detail)


def _byte_range(file: BinaryIO, piece: Piece) -> Iterator[tuple[str, bytes]]:
    """The lines that begin within the part's range of bytes, with their offsets."""
    size = piece.path.stat().st_size
    start, stop = size * piece.part // piece.parts, size * (piece.part + 1) // piece.parts
    offset = start
    if start:
        file.seek(start - 1)
        offset = start - 1 + len(file.readline(_LONGEST_LINE))  # the line that began in the part before
    while offset < stop:
        line = file.readline(_LONGEST_LINE)
        if not line:
            break
        yield f"{piece.path}, byte {offset}", _without_mark(line, offset)
        offset += len(line)


def _turns(file: BinaryIO, piece: Piece) -> Iterator[tuple[str, bytes]]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        if number // _LINES_A_TURN % piece.parts == piece.part:
            yield f"{piece.path}, line {number + 1}", _without_mark(line, number)
        number += 1


def _without_mark(line: bytes, position: int) -> bytes:
    """Windows programs may begin a file with a byte order mark."""
    return line if position else line.removeprefix(b"\xef\xbb\xbf")
