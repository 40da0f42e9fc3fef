"""The documents of a shard, each read from its own first token in windows, not as packing divides the stream.

A window has up to seq_length tokens as input and the same tokens shifted by one as targets. The windows of a document
follow each other and share one token, so that each of its tokens but the first is a target once.

Shapes: W windows, r rows of t tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.shards.mapped_shard import MappedShard

Int64s: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class WindowBatch:
    """r windows of similar length, filled up on the right to the longest one."""

    tokens: Int64s  # [r, t]
    targets: Int64s  # [r, t]
    counts: NDArray[np.bool_]  # [r, t]: whether predicting the target counts
    documents: Int64s  # [r]: the number of the window's document in its shard
    predicted: int  # targets, whether they count or not


class DocumentWindows:
    """The windows of a shard's documents, the longest first, so that batches have little to fill up."""

    def __init__(self, shard: MappedShard, *, seq_length: int) -> None:
        self._shard = shard
        ends = shard.ends.astype(np.int64)
        starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
        targets = np.maximum(ends - starts - 1, 0)
        windows = -(-targets // seq_length)
        documents = np.repeat(np.arange(len(ends)), windows)
        offsets = (np.arange(len(documents)) - np.repeat(np.cumsum(windows) - windows, windows)) * seq_length
        lengths = np.minimum(targets[documents] - offsets, seq_length)
        order = np.argsort(-lengths, kind="stable")
        self.targets = int(targets.sum())
        self._documents = documents[order]
        self._starts = (starts[documents] + offsets)[order]
        self._lengths = lengths[order]

    def batches(self, *, tokens_at_once: int) -> Iterator[WindowBatch]:
        """Yield all windows in batches of at most `tokens_at_once` tokens, filling included, or of one window."""
        first = 0
        while first < len(self._lengths):
            longest = int(self._lengths[first])
            rows = slice(first, first + max(tokens_at_once // longest, 1))
            yield self._batch(rows, longest)
            first = rows.stop

    def _batch(self, rows: slice, longest: int) -> WindowBatch:
        documents, starts, lengths = self._documents[rows], self._starts[rows], self._lengths[rows]
        tokens, targets = (np.zeros((len(starts), longest), dtype=np.int64) for _ in range(2))
        counts = np.zeros((len(starts), longest), dtype=np.bool_)
        mask = self._shard.loss_mask
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            tokens[row, :length] = self._shard.tokens[start : start + length]
            targets[row, :length] = self._shard.tokens[start + 1 : start + length + 1]
            counts[row, :length] = True if mask is None else mask[start + 1 : start + length + 1]
        return WindowBatch(tokens, targets, counts, documents, int(lengths.sum()))
