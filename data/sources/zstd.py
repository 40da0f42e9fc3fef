"""Files of Zstandard, decompressed frame by frame in bounded memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import zstandard

if TYPE_CHECKING:
    from typing_extensions import Buffer

ZSTD_ERRORS: Final = (zstandard.ZstdError,)
_BUFFER_BYTES = 1 << 20
# A block of 4 bytes can hold 128 KiB of text, so this much input never gives more than 128 MiB at once.
_INPUT_BYTES = 1 << 12
_USUAL_WINDOW = 1 << 27  # the zstd program refuses larger ones too, unless it is told to take them
_LARGEST_WINDOW = 1 << 31
_HEADER_BYTES = 18


def open_zstd(path: Path) -> io.RawIOBase:
    """Open a .zst file for reading. Windows up to 2 GiB are taken (`zstd --long=31`); they are held in memory."""
    return _ZstdReader(path.open("rb"))


def has_large_window(path: Path) -> bool:
    """Return whether a file's first frame needs more than 128 MiB of memory for its window."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    try:
        return int(zstandard.get_frame_parameters(header).window_size) > _USUAL_WINDOW
    except zstandard.ZstdError:
        return False  # no .zst file, or one that is damaged, which is noticed when it is read


class _ZstdReader(io.RawIOBase):
    """Decompresses a .zst file frame by frame. The library's own reader does not notice that a file is truncated."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressed = memoryview(b"")
        self._text = memoryview(b"")
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._frame = self._decompressor.decompressobj()
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
            self._frame = self._decompressor.decompressobj()
            self._within_frame = False
        if not self._compressed:
            self._compressed = memoryview(self._file.read(_BUFFER_BYTES))
        if not self._compressed:
            if self._within_frame:
                raise EOFError("the file ends within a compressed frame")
            return False
        self._within_frame = True
        taken = self._compressed[:_INPUT_BYTES]
        self._text = memoryview(self._frame.decompress(taken))
        unused = len(self._frame.unused_data) if self._frame.eof else 0
        self._compressed = self._compressed[len(taken) - unused :]
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
