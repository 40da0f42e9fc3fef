"""The exact score of ZIP-FIT, compared with a plain loop over Python's gzip."""

from __future__ import annotations

import gzip
import random
import statistics

import numpy as np
import pytest
from filter_texts import real_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from data.selectors.compression.compressors import Gzip, Lz4
from data.selectors.compression.ncd import (
    CHUNK_BYTES,
    Comparison,
    chunk_weights,
    cut,
    make_target_chunks,
    mean_similarity,
    similarities,
)

TEXTS = [text.encode()[:2000] for text in real_texts()[:40]]
TARGETS = TEXTS[::4]


def gzip_score(content: bytes, targets: list[bytes], level: int) -> float:
    """1 - mean NCD, by the definition."""
    distances = []
    for target in targets:
        sizes = [len(gzip.compress(part, level)) for part in (content, target, content + target)]
        distances.append((sizes[2] - min(sizes[:2])) / max(sizes[:2]))
    return 1 - statistics.fmean(distances)


def score(content: bytes, targets: list[bytes], level: int = 6) -> float:
    chunks = make_target_chunks(Gzip(level), targets)
    return mean_similarity(similarities(Gzip(level), content, chunks), chunks)


@pytest.mark.parametrize("level", [1, 6, 9])
def test_real_texts_rank_as_by_gzip(level: int) -> None:
    ours = [score(text, TARGETS, level) for text in TEXTS]
    reference = [gzip_score(text, TARGETS, level) for text in TEXTS]
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12)
    rounded = np.round(reference, 12)  # equal means are ties
    assert np.argsort(ours, kind="stable").tolist() == np.argsort(rounded, kind="stable").tolist()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000), st.lists(st.binary(max_size=600), min_size=1, max_size=4), st.integers(1, 9))
def test_any_bytes_score_as_by_gzip(content: bytes, targets: list[bytes], level: int) -> None:
    assert score(content, targets, level) == pytest.approx(gzip_score(content, targets, level), abs=1e-12)


@pytest.mark.parametrize("content", [b"", b"a", b"\xff" * 7, TARGETS[0]], ids=["empty", "one byte", "bad", "a target"])
def test_edge_cases_score_as_by_gzip(content: bytes) -> None:
    assert score(content, TARGETS) == pytest.approx(gzip_score(content, TARGETS, 6), abs=1e-12)
    assert score(content, [b"", b"a"]) == pytest.approx(gzip_score(content, [b"", b"a"], 6), abs=1e-12)


def test_identical_documents_are_similar_at_any_length() -> None:
    """A text of 40 kB is all new to gzip after itself, since deflate's window is shorter: chunks are compared."""
    long = random.Random(0).randbytes(40_000)
    assert gzip_score(long, [long], 6) < 0.01
    assert score(long, [long]) > 0.3  # a third of the pairs of chunks are equal
    assert score(long[:CHUNK_BYTES], [long[:CHUNK_BYTES]]) > 0.95


def test_a_long_document_has_the_mean_of_its_chunks_weighted_by_bytes() -> None:
    long = b"".join(text.encode() for text in real_texts())[:50_001]
    chunks = cut(long)
    lengths = [len(chunk) for chunk in chunks]
    assert b"".join(chunks) == long
    assert (len(chunks), max(lengths) - min(lengths), sum(chunk_weights(chunks))) == (4, 1, pytest.approx(1))
    expected = sum(len(chunk) * gzip_score(chunk, TARGETS, 6) for chunk in chunks) / len(long)
    assert score(long, TARGETS) == pytest.approx(expected, abs=1e-12)


def test_every_target_weighs_the_same_whatever_its_length() -> None:
    long = b"".join(TEXTS)[:40_000]
    document = TEXTS[1]
    expected = (score(document, [long]) + score(document, [TARGETS[0]])) / 2
    assert score(document, [long, TARGETS[0]]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks_are_as_few_as_can_be(length: int) -> None:
    chunks = cut(bytes(length))
    assert sum(map(len, chunks)) == length
    assert len(chunks) == max(1, -(-length // CHUNK_BYTES))
    assert max(map(len, chunks)) <= CHUNK_BYTES


def test_a_document_can_be_compared_with_some_targets_at_a_time() -> None:
    chunks = make_target_chunks(Gzip(6), TARGETS)
    for content in (TEXTS[1], b"".join(TEXTS)[:40_000]):
        comparison = Comparison(Gzip(6), content, chunks)
        some = [comparison.similarities(np.array(numbers)) for numbers in ([4, 2], [0])]
        np.testing.assert_array_equal(np.concatenate(some), similarities(Gzip(6), content, chunks)[[4, 2, 0]])


def test_lz4_scores_a_copy_highest() -> None:
    chunks = make_target_chunks(Lz4(), TARGETS[:1])
    scores = [mean_similarity(similarities(Lz4(), text, chunks), chunks) for text in TEXTS]
    assert int(np.argmax(scores)) == 0
