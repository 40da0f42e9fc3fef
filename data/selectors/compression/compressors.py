"""Compressed sizes of single texts and of concatenations, which is all that a compression distance looks at."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable

_GZIP_OVER_ZLIB_BYTES = 12  # 18 bytes of header and trailer instead of 6
_LARGEST_WINDOW_BITS = 15  # deflate's window of 32 KiB
_SMALLEST_WINDOW_BITS = 10
_MIN_LOOKAHEAD = 262  # deflate looks back by the window less these bytes
_MEMORY_LEVEL = 8  # gzip's; another one has another hash table, and finds other matches
_LZ4_CONTENT_SIZE_BYTES = 8


class Compressor(ABC):
    """A compressor that says how many bytes are left of a text."""

    @abstractmethod
    def size(self, content: bytes) -> int:
        """Return C(content): the bytes of the compressed content, header included."""

    @abstractmethod
    def prime(self, first: bytes, *, longest: int) -> Callable[[bytes], int]:
        """Return the function that gives C(first + other) for another text of at most `longest` bytes.

        The order counts. For an empty text it gives C(first).
        """


class Gzip(Compressor):
    """The sizes that Python's gzip gives, byte for byte, for texts of any length."""

    def __init__(self, level: int) -> None:
        """Take the level, 1 to 9. Level 0 stores, and compresses nothing."""
        assert 1 <= level <= 9
        self.level = level

    def size(self, content: bytes) -> int:
        return len(zlib.compress(content, self.level)) + _GZIP_OVER_ZLIB_BYTES

    def prime(self, first: bytes, *, longest: int) -> Callable[[bytes], int]:
        """Return the function; the compressor reads `first` once, and each other text continues a copy of it.

        A copy costs as much as the compressor has memory, so its window is no larger than the texts need. As long as
        they fit into it, a smaller window changes no size: deflate finds the same matches.
        """
        window_bits = _window_bits(len(first) + longest)
        primed = zlib.compressobj(self.level, zlib.DEFLATED, window_bits, _MEMORY_LEVEL)
        written = len(primed.compress(first)) + _GZIP_OVER_ZLIB_BYTES

        def joint_size(other: bytes) -> int:
            compressor = primed.copy()
            return written + len(compressor.compress(other)) + len(compressor.flush())

        return joint_size


class Lz4(Compressor):
    """The sizes of LZ4 frames in the fast mode, as `lz4.frame.compress` writes them: with the size of the content."""

    def __init__(self) -> None:
        import pyarrow

        self.codec = pyarrow.Codec("lz4")

    def size(self, content: bytes) -> int:
        return len(self.codec.compress(content, asbytes=True)) + _LZ4_CONTENT_SIZE_BYTES * bool(content)

    def prime(self, first: bytes, *, longest: int) -> Callable[[bytes], int]:
        return lambda other: self.size(first + other)


def _window_bits(content_bytes: int) -> int:
    """Return the size of the smallest window that holds this much, as an exponent of 2; at most deflate's largest."""
    needed = (content_bytes + _MIN_LOOKAHEAD - 1).bit_length()
    return min(max(needed, _SMALLEST_WINDOW_BITS), _LARGEST_WINDOW_BITS)
