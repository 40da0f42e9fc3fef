"""JSON lines: one object per line, plain or compressed."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import orjson
import zstandard
from pydantic import Field

from data.drop_reasons import BINARY, BROKEN_JSON, INVALID_UTF8, MISSING_FIELD, TOO_LONG, UNREADABLE_FILE
from data.sources.base import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.files import (
    UNREADABLE,
    count_unread,
    find_input_files,
    is_compressed,
    open_binary,
    read_line,
    text_bytes,
    with_compressions,
)

_SUFFIXES = with_compressions(".jsonl", ".ndjson", ".json")
_LINES_PER_BLOCK = 256
_MAX_PARTS = 64  # of a compressed file: every part decompresses all of it
# A line is longer than its text: JSON may spell a character with six bytes, and there are other fields.
_LINE_BYTES_PER_TEXT_BYTE = 8
_MORE_LINE_BYTES = 1 << 20
_ARRAY_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?:\{|$)")
_BEGINNING_BYTES = 64
_ARRAY = "it is a JSON array; write an object per line, as `jq -c '.[]'` does"


@SOURCES.register
class JsonLinesConfig(SourceConfig):
    """JSON lines, plain or compressed: a line is a document, its text in `text_field`."""

    name: Literal["jsonl"] = "jsonl"
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or glob patterns.")
    text_field: str = Field("text", description="The field of each object that holds the text.")

    def files(self) -> Sequence[Path]:
        return find_input_files(self.paths, _SUFFIXES, key="paths")

    def unread(self) -> Mapping[str, int]:
        return count_unread(self.paths, _SUFFIXES, key="paths")

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Divide plain files into ranges of bytes; deal compressed ones out in blocks of 256 lines."""
        parts = []
        for file in self.files():
            size = text_bytes(file)
            count = max(1, round(size / part_bytes))
            if is_compressed(file):
                count = min(count, _MAX_PARTS)
            planned = None if is_compressed(file) else size
            parts += [InputPart(file, size // count, index, count, file_bytes=planned) for index in range(count)]
        return parts

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        try:
            if _is_array(part.path):
                yield BadDocument(UNREADABLE_FILE, str(part.path), _ARRAY)
                return
            with open_binary(part.path) as file:
                lines = _line_blocks(file, part) if is_compressed(part.path) else _byte_range(file, part)
                for where, line, length in lines:
                    if line is None:
                        limit = f"data.max_document_bytes = {part.max_document_bytes:,}"
                        yield BadDocument(TOO_LONG, where, f"a line of {length:,} bytes, too long for {limit}")
                    elif document := self._parse(line, where):
                        yield document
        except UNREADABLE as error:
            yield BadDocument(UNREADABLE_FILE, str(part.path), str(error))

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        plain, gzipped, zstandard_compressed = (
            b"".join(orjson.dumps({"text": text, "number": 1}) + b"\n" for text in documents[start::3])
            for start in range(3)
        )
        (folder / "a.jsonl").write_bytes(plain)
        (folder / "b.jsonl.gz").write_bytes(gzip.compress(gzipped))
        (folder / "c.jsonl.zst").write_bytes(zstandard.compress(zstandard_compressed))
        return cls(paths=(str(folder),))

    def _parse(self, line: bytes, where: str) -> RawDocument | BadDocument | None:
        if not line.strip():
            return None  # an empty line is not a document, and the last line may be empty
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            try:
                values = _loads_leniently(line)
            except (ValueError, RecursionError):
                return _diagnose(line, where, str(error))
        if not isinstance(values, dict) or self.text_field not in values:
            return BadDocument(MISSING_FIELD, where, f'no field "{self.text_field}"')
        text = values[self.text_field]
        if not isinstance(text, str):
            return BadDocument(MISSING_FIELD, where, f'"{self.text_field}" is {type(text).__name__}, not text')
        return RawDocument(text, where)


def _loads_leniently(line: bytes) -> Any:
    """Parse what Python's json writes and strict parsers refuse: NaN, Infinity, numbers out of range, half surrogates.

    Raises ValueError if the line is not JSON even so. A text that ends up with half a surrogate pair is not UTF-8.
    """
    return json.loads(line.decode(), parse_int=float)


def _diagnose(line: bytes, where: str, detail: str) -> BadDocument:
    """Return why a line is not JSON."""
    if b"\0" in line:
        return BadDocument(BINARY, where, "holds a zero byte")
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return BadDocument(INVALID_UTF8, where, str(error))
    return BadDocument(BROKEN_JSON, where, detail)


def _is_array(path: Path) -> bool:
    """Return whether a file begins as a JSON array of objects, which has no document in a line of its own."""
    with open_binary(path) as file:
        return _ARRAY_BEGINS.match(file.read(_BEGINNING_BYTES)) is not None


def _max_line_bytes(part: InputPart) -> int:
    return part.max_document_bytes * _LINE_BYTES_PER_TEXT_BYTE + _MORE_LINE_BYTES


def _byte_range(file: BinaryIO, part: InputPart) -> Iterator[tuple[str, bytes | None, int]]:
    """Yield the lines that begin within the part's range of bytes, with their offsets, and their lengths.

    A line that is too long is None.
    """
    # The size is fixed in the plan: with a size taken anew, a file that grows would lose lines between parts.
    size = part.path.stat().st_size if part.file_bytes is None else part.file_bytes
    start, stop = size * part.index // part.count, size * (part.index + 1) // part.count
    offset = start
    if start:
        file.seek(start - 1)
        offset = start - 1 + read_line(file, _MORE_LINE_BYTES)[1]  # the line that began in the part before
    while offset < stop:
        line, length = read_line(file, _max_line_bytes(part))
        if not length:
            break
        yield f"{part.path}, byte {offset}", _without_byte_order_mark(line, offset), length
        offset += length


def _line_blocks(file: BinaryIO, part: InputPart) -> Iterator[tuple[str, bytes | None, int]]:
    """Yield the lines of every block of 256 lines that is the part's, with their numbers, as `_byte_range` does."""
    number = 0
    while True:
        line, length = read_line(file, _max_line_bytes(part))
        if not length:
            break
        if number // _LINES_PER_BLOCK % part.count == part.index:
            yield f"{part.path}, line {number + 1}", _without_byte_order_mark(line, number), length
        number += 1


def _without_byte_order_mark(line: bytes | None, position: int) -> bytes | None:
    """Remove the byte order mark with which Windows programs may begin a file."""
    return line if position or line is None else line.removeprefix(b"\xef\xbb\xbf")
