"""The selector `zipfit`: its three modes, its report, and what it refuses."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from scored_texts import texts

from data.selectors import SELECTORS, SelectorConfig
from settings import UserError

TEXTS = [text.decode("utf-8", "replace") for text in texts() if len(text) < 16_000]
TARGETS, POOL, NEW = TEXTS[:12], TEXTS[12:260], TEXTS[260:]


def zipfit(**keys: object) -> SelectorConfig:
    return SELECTORS.parse({"name": "zipfit", **keys})


def scores(config: SelectorConfig, documents: list[str] = NEW) -> np.ndarray:
    pool = POOL if config.pool_sample_bytes else ()
    scorer = config.prepare(TARGETS, config.fit(TARGETS, pool))
    return scorer.score(documents, np.zeros(len(documents), dtype=np.uint64))


def gzip_scores(documents: list[str], targets: list[str], level: int = 6) -> list[float]:
    def size(text: str) -> int:
        return len(gzip.compress(text.encode(), level))

    found = []
    for x in documents:
        distances = [(size(x + y) - min(size(x), size(y))) / max(size(x), size(y)) for y in targets]
        found.append(1 - sum(distances) / len(distances))
    return found


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return scores(zipfit())


def test_exact_scores_are_those_of_gzip(exact: np.ndarray) -> None:
    np.testing.assert_allclose(exact, gzip_scores(NEW, TARGETS), atol=1e-12)
    np.testing.assert_allclose(scores(zipfit(gzip_level=9)), gzip_scores(NEW, TARGETS, 9), atol=1e-12)


def test_the_prefilter_lets_the_best_through_with_their_exact_scores(exact: np.ndarray) -> None:
    config = zipfit(mode="prefilter", top_share=0.125)
    found = scores(config)
    passes = found > -1
    assert 0.125 < passes.mean() < 0.6
    np.testing.assert_array_equal(found[passes], exact[passes])
    assert found[~passes].max() < -8
    best = np.argsort(-exact)[: len(exact) // 8]
    assert passes[best].mean() > 0.9


def test_distilled_scores_are_estimates(exact: np.ndarray) -> None:
    found = scores(zipfit(mode="distilled"))
    assert np.abs(found - exact).mean() < 0.1 * np.ptp(exact)


def test_the_first_targets_are_compared_with_if_their_number_is_limited() -> None:
    np.testing.assert_allclose(scores(zipfit(max_targets=5)), gzip_scores(NEW, TARGETS[:5]), atol=1e-12)


@pytest.mark.parametrize(
    ("keys", "recalls"), [({"mode": "prefilter", "top_share": 0.2}, 0.95), ({"max_targets": 6}, 0.8)]
)
def test_the_report_has_the_recall_on_the_sample(keys: dict[str, object], recalls: float) -> None:
    config = zipfit(**keys)
    facts = config.prepare(TARGETS, config.fit(TARGETS, POOL)).describe()
    assert facts["sample_documents"] == len(POOL)
    assert list(facts["recall_of_exact_top"]) == ["1%", "2%", "5%", "10%", "20%", "50%"]
    assert facts["recall_of_exact_top"]["20%"] >= recalls
    assert facts["spearman_of_exact_score"]["estimate"] > 0.9
    assert -1 <= facts["spearman_of_exact_score"]["bytes"] <= 1


def test_exact_scores_of_all_targets_need_no_sample() -> None:
    assert zipfit().pool_sample_bytes == 0
    assert zipfit().prepare(TARGETS, {}).describe() == {"targets": len(TARGETS)}


def test_short_documents_have_no_score_and_short_targets_are_not_used() -> None:
    config = zipfit(min_bytes=300)
    scorer = config.prepare([*TARGETS, "short"], {})
    found = scorer.score(["x" * 299, "é" * 150], np.zeros(2, dtype=np.uint64))
    assert np.isnan(found).tolist() == [True, False]
    assert scorer.describe() == {"targets": len(TARGETS)}
    with pytest.raises(UserError, match="no target has min_bytes = 300"):
        config.prepare(["short"], {})
    with pytest.raises(UserError, match="no document of the pool has min_bytes = 300"):
        zipfit(min_bytes=300, mode="distilled").fit(TARGETS, ["short"])


@pytest.mark.parametrize("level", [0, -1])
def test_a_level_that_stores_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="level 0 stores and compresses nothing"):
        zipfit(gzip_level=level)
