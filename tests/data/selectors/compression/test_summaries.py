"""The correction of estimates by comparisons with summaries of the targets."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_texts import COMPRESSOR, TARGETS, exact_rows, exact_scores, texts

from data.selectors.compression.agreement import rank_correlation
from data.selectors.compression.distilled import fit_linear_model
from data.selectors.compression.ncd import make_target_chunks
from data.selectors.compression.summaries import (
    Correction,
    Summaries,
    cluster_targets,
    fit_correction,
    summarise,
)

FITTED = slice(0, 200)
CONTENTS = texts()[:-12]


def gzip_bytes(content: bytes) -> int:
    return len(zlib.compress(content, 6)) + 12


def test_corrected_estimates_rank_more_like_exact_scores_than_estimates_do() -> None:
    scores = exact_scores()
    clusters = cluster_targets(exact_rows()[FITTED])
    summaries = Summaries(COMPRESSOR, TARGETS, clusters)
    features = np.stack([summaries.features(content) for content in CONTENTS])
    fitted = fit_linear_model(TARGETS, CONTENTS[FITTED], scores[FITTED])
    of_sample = fitted.left_out_estimates
    correction, left_out = fit_correction(clusters, features[FITTED], of_sample, scores[FITTED])
    before, after = (rank_correlation(estimates, scores[FITTED]) for estimates in (of_sample, left_out))
    assert (1 - after) < 0.7 * (1 - before)
    found = correction.correct(scores, features)
    copy = Correction.from_arrays(correction.to_arrays())
    np.testing.assert_array_equal(copy.correct(scores, features), found)


def test_clusters_are_of_the_same_kind_of_text() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(3), 10)
    sample_kinds = np.repeat(np.arange(3), 50)
    rows = 0.3 * (sample_kinds[:, None] == kinds) + rng.normal(0, 0.02, (150, 30)) + rng.uniform(0, 0.2, 30)
    clusters = cluster_targets(rows)
    assert len(np.unique(clusters)) == 3
    assert all(len(np.unique(clusters[kinds == kind])) == 1 for kind in range(3))
    np.testing.assert_array_equal(cluster_targets(rows), clusters)


@pytest.mark.parametrize("targets", [1, 2, 4, 5])
def test_few_or_equal_targets_have_clusters(targets: int) -> None:
    clusters = cluster_targets(np.tile(np.linspace(0, 1, 7)[:, None], (1, targets)))
    assert clusters.shape == (targets,)
    assert set(clusters.tolist()) == set(range(int(clusters.max()) + 1))


def test_features_are_savings_of_the_compressor() -> None:
    summaries = Summaries(COMPRESSOR, TARGETS, np.arange(len(TARGETS.contents)) % 3)
    content = texts()[1]
    own = gzip_bytes(content)
    savings = np.array([own + gzip_bytes(other) - gzip_bytes(content + other) for other in summaries.contents])
    scale = 1000 * np.mean([1 / max(own, gzip_bytes(target)) for target in TARGETS.contents])
    np.testing.assert_allclose(summaries.features(content), [scale, *(scale * savings), *savings], rtol=1e-12)


@pytest.mark.parametrize("content", [b"", b"a", b"\x00" * 50_000, bytes(range(256)) * 100])
def test_odd_texts_have_finite_features(content: bytes) -> None:
    targets = make_target_chunks(COMPRESSOR, [b"a short target", b"another"])
    assert np.isfinite(Summaries(COMPRESSOR, targets, np.zeros(2, dtype=np.int64)).features(content)).all()


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.integers(1, 4000))
def test_a_summary_is_made_of_pieces_and_is_about_as_long_as_asked(lengths: list[int], length: int) -> None:
    contents = [bytes([number]) * size for number, size in enumerate(lengths)]
    summary = summarise(contents, length)
    size = max(64, length // len(contents))
    used = max(1, length // size)
    assert summary == b"".join(content[:size] for content in contents[:used])  # of equal bytes, places do not matter
    assert len(summary) <= max(64, length)
