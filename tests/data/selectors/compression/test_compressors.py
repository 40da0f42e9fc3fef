"""Compressed sizes, compared with Python's gzip and with the lz4 package."""

from __future__ import annotations

import gzip
import random

import pytest
from filter_texts import ARTICLE
from hypothesis import given, settings
from hypothesis import strategies as st

from data.selectors.compression.compressors import Compressor, Gzip, Lz4

PROSE = ARTICLE.encode()
NOISE = random.Random(0).randbytes(70_000)
CODE = b"".join(b"def f%d(x):\n    return x * %d\n" % (n, n * 7) for n in range(2000))
EDGE_CASES = {
    "empty": b"",
    "one byte": b"a",
    "prose": PROSE,
    "not UTF-8": b"\xff\xfe\x80" * 50,
    "run": b"x" * 5000,
    "noise of 16 kB": NOISE[:16_000],
    "noise as long as the window": NOISE[: 1 << 15],
    "noise over the window": NOISE[:40_000],
    "code over the window": CODE[:40_000],
    "code over two windows": CODE[: (1 << 16) + 300],
}


def joint_sizes(compressor: Compressor, first: bytes, others: list[bytes]) -> list[int]:
    joint_size = compressor.prime(first, longest=max(map(len, others), default=0))
    return [joint_size(other) for other in others]


def gzip_sizes(first: bytes, others: list[bytes], level: int) -> list[int]:
    return [len(gzip.compress(first + other, level)) for other in others]


@pytest.mark.parametrize("first", EDGE_CASES.values(), ids=EDGE_CASES.keys())
def test_gzip_sizes_of_edge_cases(first: bytes) -> None:
    others = list(EDGE_CASES.values())
    for level in (1, 6):
        assert joint_sizes(Gzip(level), first, others) == gzip_sizes(first, others, level)
        assert Gzip(level).size(first) == len(gzip.compress(first, level))
        for other in others:  # by itself, so that the window follows from this pair
            assert joint_sizes(Gzip(level), first, [other]) == gzip_sizes(first, [other], level)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Bytes from repeated and fresh parts, whose length is often near a power of 2."""
    parts = draw(st.lists(st.sampled_from([PROSE, CODE[:3000], NOISE[:700], b"a", b"\xe2\x82"]), max_size=6))
    content = b"".join(parts) + draw(st.binary(max_size=300))
    limit = draw(st.sampled_from([64, 500, 1024 - 262, 2048, 4096 - 262, 8192, 20_000]))
    return content[: limit + draw(st.integers(-3, 3))]


@settings(max_examples=150, deadline=None)
@given(first=texts(), others=st.lists(texts(), max_size=3), level=st.integers(1, 9))
def test_gzip_sizes_of_any_texts(first: bytes, others: list[bytes], level: int) -> None:
    assert joint_sizes(Gzip(level), first, others) == gzip_sizes(first, others, level)


@pytest.mark.parametrize("content", EDGE_CASES.values(), ids=EDGE_CASES.keys())
def test_lz4_sizes_have_the_parts_of_a_frame(content: bytes) -> None:
    """Noise is stored: 15 bytes of header with the content's size, 4 for each block of 64 KiB, and 4 at the end."""
    size = Lz4().size(content)
    blocks = -(-len(content) // (1 << 16))
    stored = (15 if content else 7) + 4 * blocks + 4 + len(content)
    assert size == stored if content in (b"", NOISE[:16_000], NOISE[:40_000]) else size <= stored
    assert joint_sizes(Lz4(), content, [PROSE]) == [Lz4().size(content + PROSE)]


def test_lz4_sizes_are_those_of_its_package() -> None:
    from lz4 import frame

    for content in EDGE_CASES.values():
        assert Lz4().size(content) == len(frame.compress(content))
