"""Batches of the held-out split, source by source: every token but the first of a source is a target exactly once.

Sequences come in the order of the stream and share only the one token that joins them. The last sequence of a source is
filled up with tokens that do not count. A round is one batch of one source, with the same number of rows on every rank.

Bits per byte of a source: its loss per token / ln 2 / bytes_per_token.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.batches.batch import PADDING, Batch, assemble_batch
from data.batches.buffers import BufferPool
from data.config import DataConfig
from data.shards.index import Shards, open_shards


class HeldOutLoader:
    """The held-out sequences of every source of the run that has any, whether or not the mixture draws from it."""

    def __init__(self, config: DataConfig, *, seq_length: int) -> None:
        """Open the shards. Raises UserError if they are missing or do not fit their dataset.json."""
        self.shards: Shards = open_shards(config)
        self._seq_length = seq_length
        self._document_masking = config.document_masking
        self._streams = [self.shards.stream(name, "held_out") for name in self.shards.names]
        self.sources: tuple[str, ...] = tuple(name for name in self.shards.names if self.num_sequences(name))
        self._buffers = BufferPool()

    def num_sequences(self, source: str) -> int:
        """Return how many sequences the source has; the last one counts, and may be short."""
        tokens = self.shards.split(source, "held_out").tokens
        return -(-max(tokens - 1, 0) // self._seq_length)

    def bytes_per_token(self, source: str) -> float:
        """Return the bytes of UTF-8 text for each token of the source's held-out split, end-of-text tokens included."""
        split = self.shards.split(source, "held_out")
        return split.text_bytes / split.tokens

    def rounds(
        self, rows_per_round_global: int, data_rank: int = 0, data_size: int = 1, max_sequences: int | None = None
    ) -> Iterator[tuple[str, Batch]]:
        """Yield this data rank's share of every round: the source's name and rows_per_round_global / data_size rows.

        `max_sequences` limits each source to its first sequences; None takes all. Rows that only fill up a round have
        sample number PADDING and a loss mask of False; the sample number of any other row is its sequence number.
        """
        assert rows_per_round_global % data_size == 0, (
            f"{rows_per_round_global} rows cannot be dealt to {data_size} ranks"
        )
        rows_per_rank = rows_per_round_global // data_size
        for source in self.sources:
            total = self.num_sequences(source)
            taken = total if max_sequences is None else min(total, max_sequences)
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
