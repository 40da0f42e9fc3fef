"""The loss of a unigram model, which knows only how often each token occurs; a trained model must at least beat it."""

from __future__ import annotations

import numpy as np

from data.shards.dataset_json import Split
from data.shards.index import Shards

_MAX_COUNTED_TOKENS = 20_000_000  # of each split


def unigram_loss(shards: Shards, source: str) -> float:
    """Return the unigram loss on the source's held-out split, in nats per token.

    Probabilities are the counts of the training split plus one. At most 20 million tokens of each split are read.
    """
    info = shards.datasets[source]
    counts = np.ones(info.tokenizer.vocab_size, dtype=np.float64)
    counts += _counts(shards, source, "train", len(counts))
    held_out = _counts(shards, source, "held_out", len(counts))
    return float(-(held_out * np.log(counts / counts.sum())).sum() / max(held_out.sum(), 1))


def _counts(shards: Shards, source: str, split: Split, entries: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    info = shards.datasets[source]
    counts = np.zeros(entries, dtype=np.float64)
    remaining = _MAX_COUNTED_TOKENS
    for file in shards.split(source, split).files:
        path = shards.folder / source / file.path
        tokens = np.fromfile(path, dtype=f"<u{info.token_bytes}", count=min(remaining, file.tokens))
        counts += np.bincount(tokens.astype(np.int64), minlength=entries)
        remaining -= len(tokens)
    return counts
