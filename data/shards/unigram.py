"""The loss of a model that knows only how often each token occurs: what a trained model must at least be below."""

from __future__ import annotations

import numpy as np

from data.shards.dataset_json import Split
from data.shards.index import Shards

_MOST_TOKENS = 20_000_000  # of a source's training split that are counted


def unigram_loss(shards: Shards, source: str) -> float:
    """Nats a token of the source's held-out split, by the counts of its training split (each token once more)."""
    info = shards.datasets[source]
    counts = np.ones(info.tokenizer.vocab_size, dtype=np.float64)
    counts += _counts(shards, source, "train", len(counts))
    held_out = _counts(shards, source, "held_out", len(counts))
    return float(-(held_out * np.log(counts / counts.sum())).sum() / max(held_out.sum(), 1))


def _counts(shards: Shards, source: str, split: Split, entries: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    info = shards.datasets[source]
    counts = np.zeros(entries, dtype=np.float64)
    left = _MOST_TOKENS
    for file in shards.split(source, split).files:
        path = shards.folder / source / file.path
        tokens = np.fromfile(path, dtype=f"<u{info.token_bytes}", count=min(left, file.tokens))
        counts += np.bincount(tokens.astype(np.int64), minlength=entries)
        left -= len(tokens)
    return counts
