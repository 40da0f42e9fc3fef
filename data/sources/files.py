"""Input files: from what the user wrote to a fixed list, opened whatever their compression."""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard

from settings import UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# What a damaged or misnamed file raises while it is read.
UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError)
_BUFFER_BYTES = 1 << 20
_COMPRESSIONS = {".gz": 4, ".zst": 4}  # about how much text a compressed byte holds


def find_input_files(paths: Sequence[str], suffixes: Sequence[str], *, key: str) -> list[Path]:
    """Files, folders (every file under them with one of the suffixes) and globs, sorted within each; no file twice.

    Raises UserError where a path matches nothing: a typing error must not become a smaller data set.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if Path(path).is_file():
            matches = [Path(path)]
        elif Path(path).is_dir():
            matches = sorted(file for file in Path(path).rglob("*") if _is_wanted(file, suffixes))
            if not matches:
                raise UserError(f'{key} = "{path}": no file under this folder ends in {" or ".join(suffixes)}')
        elif glob.has_magic(path):
            matches = sorted(Path(match) for match in glob.glob(path, recursive=True) if Path(match).is_file())
            if not matches:
                raise UserError(f'{key} = "{path}" matches no file')
        else:
            raise UserError(f'{key} = "{path}" does not exist')
        found.update(dict.fromkeys(matches))
    return list(found)


def _is_wanted(file: Path, suffixes: Sequence[str]) -> bool:
    return file.name.endswith(tuple(suffixes)) and not file.name.startswith(".") and file.is_file()


def is_compressed(path: Path) -> bool:
    """Whether `open_binary` decompresses it; such a file is read from its beginning only."""
    return path.suffix in _COMPRESSIONS


def text_bytes(path: Path) -> int:
    """About how much text a file holds."""
    return path.stat().st_size * _COMPRESSIONS.get(path.suffix, 1)


def open_binary(path: Path) -> BinaryIO:
    """Open for reading, decompressed by its suffix."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdReader(path.open("rb")), _BUFFER_BYTES)
    return path.open("rb", buffering=_BUFFER_BYTES)


class _ZstdReader(io.RawIOBase):
    """The text of a .zst file, frame after frame. The library's own reader takes a file cut short for a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressed = b""
        self._text = memoryview(b"")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._within_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Raises EOFError where the file ends within a frame."""
        while not self._text and self._advance():
            pass
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._text))
        target[:count], self._text = self._text[:count], self._text[count:]
        return count

    def _advance(self) -> bool:
        """Decompress some more; False at the end."""
        if self._frame.eof:
            self._compressed = self._frame.unused_data
            self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._within_frame = False
        self._compressed = self._compressed or self._file.read(_BUFFER_BYTES)
        if not self._compressed:
            if self._within_frame:
                raise EOFError("the file ends within a compressed frame")
            return False
        self._within_frame = True
        self._text = memoryview(self._frame.decompress(self._compressed))
        self._compressed = b""
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
