"""The documents of a shard, each read from its own first token in windows, not as packing divides the stream.

A window has up to seq_length tokens as input and the same tokens shifted by one as targets. The windows of a document
follow each other and share one token, so that each of its tokens but the first is a target once.

Shapes: W windows, r rows of t tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
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
    windows: Int64s  # [r]: the numbers of the windows
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
        self.documents = documents[order]  # [W]: the number of each window's document in its shard
        self._starts = (starts[documents] + offsets)[order]
        self._lengths = lengths[order]

    def batches(self, *, tokens_at_once: int, part: int = 0, parts: int = 1) -> Iterator[WindowBatch]:
        """Yield the windows in batches of at most `tokens_at_once` tokens, filling included, or of one window.

        Of all batches, only every `parts`-th is made, from that of number `part` on.
        """
        first = number = 0
        while first < len(self._lengths):
            end = min(first + max(tokens_at_once // int(self._lengths[first]), 1), len(self._lengths))
            if number % parts == part:
                yield self.batch(np.arange(first, end))
            first, number = end, number + 1

    def batches_of(self, document: int, *, tokens_at_once: int) -> Iterator[WindowBatch]:
        """Yield the windows of one document in batches of at most `tokens_at_once` tokens, or of one window."""
        order, first = self._by_document
        windows = order[first[document] : first[document + 1]]
        while len(windows):
            rows = max(tokens_at_once // int(self._lengths[windows[0]]), 1)
            yield self.batch(windows[:rows])
            windows = windows[rows:]

    def batch(self, windows: Int64s) -> WindowBatch:
        """Return the batch of the windows of these numbers, of which the first is the longest."""
        starts, lengths = self._starts[windows], self._lengths[windows]
        tokens, targets = (np.zeros((len(windows), int(lengths[0])), dtype=np.int64) for _ in range(2))
        counts = np.zeros(tokens.shape, dtype=np.bool_)
        mask = self._shard.loss_mask
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            tokens[row, :length] = self._shard.tokens[start : start + length]
            targets[row, :length] = self._shard.tokens[start + 1 : start + length + 1]
            counts[row, :length] = True if mask is None else mask[start + 1 : start + length + 1]
        return WindowBatch(tokens, targets, counts, windows, int(lengths.sum()))

    @cached_property
    def _by_document(self) -> tuple[Int64s, Int64s]:
        """The windows in the order of their documents, and where in it each document begins and ends."""
        order = np.argsort(self.documents, kind="stable")
        return order, np.searchsorted(self.documents[order], np.arange(self._shard.file.documents + 1))
