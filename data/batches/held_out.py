"""Batches of the held-out split, source by source: every token but the first of a source is a target exactly once.

Sequences come in the order of the stream and share only the one token that joins them. The last sequence of a source is
filled up with tokens that do not count. A round is one batch of one source, with the same number of rows on every rank.

Bits per byte of a source: its loss per token / ln 2 / bytes_per_token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from data.batches.batch import PADDING, Batch, assemble_batch
from data.batches.buffers import BufferPool
from data.config import DataConfig
from data.shards.index import Shards, open_shards

_TARGETS_AT_ONCE = 2**20  # of a loss mask


class HeldOutLoader:
    """The held-out sequences of every source of the run that has any, whether or not the mixture draws from it.

    A source whose loss mask leaves no token to predict has no loss: it is in `uncounted_sources`, not in `sources`.
    """

    def __init__(self, config: DataConfig, *, seq_length: int, max_sequences: int | None = None) -> None:
        """Open the shards; `max_sequences` limits each source to its first sequences, and None takes all.

        Raises UserError as `open_shards` does; `check_training_data` checks the files.
        """
        self.shards: Shards = open_shards(config)
        self._seq_length = seq_length
        self._max_sequences = max_sequences
        self._document_masking = config.document_masking
        self._streams = [self.shards.stream(name, "held_out") for name in self.shards.names]
        self._buffers = BufferPool()
        held_out = [name for name in self.shards.names if self.num_sequences(name)]
        self.sources: tuple[str, ...] = tuple(name for name in held_out if self._counts(name))
        self.uncounted_sources: tuple[str, ...] = tuple(name for name in held_out if name not in self.sources)

    def num_sequences(self, source: str) -> int:
        """Return how many sequences of the source are taken; the last one of all counts, and may be short."""
        total = self._total_sequences(source)
        return total if self._max_sequences is None else min(total, self._max_sequences)

    def identity(self) -> dict[str, Any]:
        """Return what decides the loss of given weights on these sequences: losses compare if it is equal."""
        splits = {name: self.shards.split(name, "held_out").to_plain() for name in self.sources}
        return {
            "seq_length": self._seq_length,
            "document_masking": self._document_masking,
            "sources": {
                name: {
                    "sequences": self.num_sequences(name),
                    "sha256": hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest()[:16],
                }
                for name, split in splits.items()
            },
        }

    def _total_sequences(self, source: str) -> int:
        tokens = self.shards.split(source, "held_out").tokens
        return -(-max(tokens - 1, 0) // self._seq_length)

    def _counts(self, source: str) -> bool:
        """Return whether the loss mask of the source's sequences leaves any token to predict."""
        stream = self._streams[self.shards.names.index(source)]
        if not stream.has_loss_mask:
            return True
        targets = min(self.num_sequences(source) * self._seq_length, stream.tokens - 1)
        starts = np.arange(1, targets + 1, _TARGETS_AT_ONCE)
        return any(
            bool(stream.read_loss_mask(np.array([start]), min(_TARGETS_AT_ONCE, targets + 1 - int(start))).any())
            for start in starts
        )

    def bytes_per_token(self, source: str) -> float:
        """Return the bytes of UTF-8 text for each token of the source's held-out split, end-of-text tokens included."""
        split = self.shards.split(source, "held_out")
        return split.text_bytes / split.tokens

    def rounds(self, rows_per_round_global: int, data_rank: int = 0, data_size: int = 1) -> Iterator[tuple[str, Batch]]:
        """Yield this data rank's share of every round: the source's name and rows_per_round_global / data_size rows.

        Rows that only fill up a round have sample number PADDING and a loss mask of False; the sample number of any
        other row is its sequence number.
        """
        assert rows_per_round_global % data_size == 0, (
            f"{rows_per_round_global} rows cannot be dealt to {data_size} ranks"
        )
        rows_per_rank = rows_per_round_global // data_size
        for source in self.sources:
            total, taken = self._total_sequences(source), self.num_sequences(source)
            for first in range(0, taken, rows_per_round_global):
                sequences = first + data_rank * rows_per_rank + np.arange(rows_per_rank, dtype=np.int64)
                is_padding = sequences >= taken
                yield (
                    source,
                    assemble_batch(
                        self._streams,
                        sources=np.full(rows_per_rank, self.shards.names.index(source), dtype=np.int16),
                        samples=np.where(is_padding, PADDING, sequences),
                        sequences=np.where(is_padding, total, sequences),  # sequence `total` is past the stream's end
                        seq_length=self._seq_length,
                        document_masking=self._document_masking,
                        buffers=self._buffers,
                    ),
                )
