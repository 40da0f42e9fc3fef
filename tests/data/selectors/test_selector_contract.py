"""The contract of selectors, tested on every example of every registered selector."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filter_texts import ARTICLE, ODD

from data.selectors import SELECTORS, Scorer, SelectorConfig
from settings import UserError

if TYPE_CHECKING:
    from data.selectors.base import Arrays

TEXTS = (ARTICLE, ARTICLE[: len(ARTICLE) // 2], ARTICLE.upper(), ARTICLE[::-1], "def f(x):\n    return x\n" * 20, *ODD)
TARGETS = (ARTICLE[len(ARTICLE) // 2 :], "The town on the river has a bridge of stone, and people cross it. " * 8)


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)


def fit(config: SelectorConfig) -> Arrays:
    return config.fit(TARGETS if config.uses_targets else (), TEXTS if config.pool_sample_bytes else ())


def prepare(config: SelectorConfig, fitted: Arrays) -> Scorer:
    return config.prepare(TARGETS if config.uses_targets else (), fitted)


@pytest.mark.parametrize(
    "config",
    [part for name in SELECTORS.names() for config in SELECTORS[name].examples() for part in config.parts],
    ids=lambda config: config.name,
)
class TestEverySelector:
    def test_scores_every_text_in_any_batch_and_process(self, config: SelectorConfig, tmp_path: Path) -> None:
        """Fitted arrays are read back from files, as the tasks of a build do."""
        for name, array in fit(config).items():
            np.save(tmp_path / f"{name}.npy", array, allow_pickle=False)
        arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in tmp_path.glob("*.npy")}
        hashes = text_hashes(TEXTS)
        scores = prepare(config, arrays).score(TEXTS, hashes)
        assert scores.shape == hashes.shape
        assert scores.dtype == np.float64
        assert np.isfinite(scores[:4]).all()
        fresh = prepare(config, arrays)
        one_by_one = [
            fresh.score([text], hashes[number : number + 1])[0] for number, text in reversed(list(enumerate(TEXTS)))
        ]
        np.testing.assert_array_equal(np.array(one_by_one[::-1]), scores)
        assert fresh.score([], hashes[:0]).shape == (0,)

    def test_fits_the_same_again(self, config: SelectorConfig) -> None:
        first, again = fit(config), fit(config)
        assert first.keys() == again.keys()
        for name, array in first.items():
            np.testing.assert_array_equal(again[name], array)

    def test_its_config_reads_back(self, config: SelectorConfig) -> None:
        assert SELECTORS.parse(config.to_plain()) == config

    def test_its_strata_are_numbers_from_0_if_it_has_a_reference(self, config: SelectorConfig) -> None:
        if config.reference:
            strata = config.strata(source=1, text_bytes=np.array([1, 900, 1000, 10**9], dtype=np.uint64))
            assert strata.dtype == np.int64
            assert strata.min() >= 0


def test_an_unknown_selector_is_named() -> None:
    with pytest.raises(UserError, match='did you mean "random"'):
        SELECTORS.parse("randm")
