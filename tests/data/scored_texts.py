"""Real texts and their exact scores, for tests of estimates."""

from __future__ import annotations

from functools import cache

import numpy as np
from filter_texts import made_texts, real_texts

from data.selectors.compression.compressors import Gzip
from data.selectors.compression.ncd import make_target_chunks, mean_similarity, similarities

COMPRESSOR = Gzip(6)


@cache
def texts() -> tuple[bytes, ...]:
    """Return code, documentation, random phrases and noise of 300 to 2,000 bytes, and one text of several chunks."""
    joined = "".join(real_texts()).encode()
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(joined) - 2000, 260)
    lengths = rng.integers(300, 2000, 260)
    code = [joined[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    phrases = [text.encode()[:1500] for text in made_texts(150) if len(text) > 300]
    noise = [rng.bytes(500) for _ in range(5)]
    order = rng.permutation(len(code) + len(phrases) + len(noise))
    mixed = [*code, *phrases, *noise]
    return (joined[:40_000], *(mixed[number] for number in order.tolist()))


TARGETS = make_target_chunks(COMPRESSOR, texts()[-12:])


@cache
def exact_rows() -> np.ndarray:
    """Return the similarity of each text but the targets to each target."""
    return np.stack([similarities(COMPRESSOR, text, TARGETS) for text in texts()[:-12]])


@cache
def exact_scores() -> np.ndarray:
    """Return the exact score of each text but the targets."""
    return np.array([mean_similarity(row, TARGETS) for row in exact_rows()])
