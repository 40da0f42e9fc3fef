"""The held-out split in windows, source by source: every token but the first of a source is a target exactly once.

Windows are in the order of the stream and do not overlap but for the one token that joins them; the last one of a
source is filled up with tokens that do not count. Each round holds rows of one source, equally many on every data rank.

Bits per byte of a source: its loss per token / ln 2 / bytes_per_token.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.batches.rows import PADDING, RowBuffers, Rows, assemble
from data.config import DataConfig
from data.shards.index import Shards, open_shards


class HeldOut:
    """The held-out windows of every source of the run that has any, whether or not the mixture draws from it."""

    def __init__(self, config: DataConfig, *, seq_length: int) -> None:
        """Raises UserError for shards that are missing or do not fit their dataset.json."""
        self.shards: Shards = open_shards(config)
        self._seq_length = seq_length
        self._document_masking = config.document_masking
        self._streams = [self.shards.stream(name, "held_out") for name in self.shards.names]
        self.sources: tuple[str, ...] = tuple(name for name in self.shards.names if self.windows(name))
        self._buffers = RowBuffers()

    def windows(self, source: str) -> int:
        """How many windows the source has, the last one, which may be short, included."""
        tokens = self.shards.split(source, "held_out").tokens
        return -(-max(tokens - 1, 0) // self._seq_length)

    def bytes_per_token(self, source: str) -> float:
        """Bytes of UTF-8 text for each token of the source's held-out split, the ends of documents among the tokens."""
        split = self.shards.split(source, "held_out")
        return split.text_bytes / split.tokens

    def rounds(
        self, rows_per_round_global: int, data_rank: int = 0, data_size: int = 1, max_windows: int | None = None
    ) -> Iterator[tuple[str, Rows]]:
        """This rank's share of every round: the source's name, and rows [rows_per_round_global / data_size].

        Each source's first `max_windows` windows, or all. Rows that only fill up a round have sample number PADDING and
        a loss mask of False; a row's sample number is otherwise its window's.
        """
        assert rows_per_round_global % data_size == 0, (
            f"{rows_per_round_global} rows cannot be dealt to {data_size} ranks"
        )
        rows_per_rank = rows_per_round_global // data_size
        for source in self.sources:
            windows = self.windows(source) if max_windows is None else min(self.windows(source), max_windows)
            for first in range(0, windows, rows_per_round_global):
                here = first + data_rank * rows_per_rank + np.arange(rows_per_rank, dtype=np.int64)
                filler = here >= windows
                yield (
                    source,
                    assemble(
                        self._streams,
                        sources=np.full(rows_per_rank, self.shards.names.index(source), dtype=np.int16),
                        samples=np.where(filler, PADDING, here),
                        windows=np.where(filler, self.windows(source), here),  # past the stream's end
                        seq_length=self._seq_length,
                        document_masking=self._document_masking,
                        buffers=self._buffers,
                    ),
                )
