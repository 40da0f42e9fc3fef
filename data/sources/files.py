"""Input files: the user's paths become a fixed list of files, which are opened whatever their compression."""

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

# The errors that a damaged or misnamed file raises while it is read.
UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError)
_BUFFER_BYTES = 1 << 20
_TEXT_PER_BYTE = {".gz": 4, ".zst": 4}  # an estimate for each compression


def find_input_files(paths: Sequence[str], suffixes: Sequence[str], *, key: str) -> list[Path]:
    """List the files of `paths`, which may be files, globs, or folders, whose files with one of the suffixes are taken.

    Files are sorted within each path, and no file is listed twice. Raises UserError if a path matches nothing, so that
    a typing error does not become a smaller data set.
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
    """Return whether `open_binary` decompresses the file, which can then only be read from its beginning."""
    return path.suffix in _TEXT_PER_BYTE


def text_bytes(path: Path) -> int:
    """Estimate how many bytes of text a file holds."""
    return path.stat().st_size * _TEXT_PER_BYTE.get(path.suffix, 1)


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, and decompress it if its suffix is .gz or .zst."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdReader(path.open("rb")), _BUFFER_BYTES)
    return path.open("rb", buffering=_BUFFER_BYTES)


class _ZstdReader(io.RawIOBase):
    """Decompresses a .zst file frame by frame. The library's own reader does not notice that a file is truncated."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressed = b""
        self._text = memoryview(b"")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._within_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill `buffer` with decompressed bytes. Raises EOFError if the file ends within a frame."""
        while not self._text and self._advance():
            pass
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._text))
        target[:count], self._text = self._text[:count], self._text[count:]
        return count

    def _advance(self) -> bool:
        """Decompress the next bytes; return False at the end of the file."""
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
