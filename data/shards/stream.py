"""The token stream of one split of one source: its shard files one after the other, memory-mapped.

A sequence may cross from one file into the next: the end of a document is a boundary of the text, and the end of a file
is not. So the same documents in files of other sizes give the same sequences.

Shapes: k spans of `length` tokens. Positions in the stream count the tokens of all files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data.shards.dataset_json import SplitInfo
from data.shards.mapped_shard import END_TYPE, Array, MappedShard

Int64s: TypeAlias = NDArray[np.int64]
UInt64s: TypeAlias = NDArray[np.uint64]

_TOKEN_TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


class TokenStream:
    """The shards of a split, memory-mapped. Only what is requested is read, and nothing is cached."""

    def __init__(self, folder: Path, split: SplitInfo, *, token_bytes: int) -> None:
        """Describe the shards of a split; `folder` is the source's. No file is opened: see `check`."""
        self.token_type = _TOKEN_TYPES[token_bytes]
        self._all_shards = [MappedShard(folder, file, self.token_type) for file in split.files]
        self._shards = [shard for shard in self._all_shards if shard.file.tokens]
        tokens = np.array([shard.file.tokens for shard in self._shards], dtype=np.int64)
        self._file_ends = np.cumsum(tokens)
        self._file_starts = self._file_ends - tokens
        self.tokens = int(tokens.sum())
        self.has_loss_mask = any(shard.file.loss_sha256 for shard in self._shards)

    @property
    def shards(self) -> Sequence[MappedShard]:
        """The shards that hold tokens, in the order in which they are read."""
        return self._shards

    def check(self) -> None:
        """Raise UserError if files are missing, have another size than recorded, or do not belong together."""
        for shard in self._all_shards:
            shard.check()

    def read(self, starts: Int64s, length: int) -> Array:
        """Return tokens [k, length] from positions `starts` [k], in the shards' type; 0 past the end of the stream."""
        return self._gather(lambda shard: shard.tokens, starts, length, np.zeros((), dtype=self.token_type))

    def read_loss_mask(self, starts: Int64s, length: int) -> NDArray[np.bool_]:
        """Return whether predicting each token [k, length] counts: its `.ds.loss` byte, or True without such a file."""
        return self._gather(lambda shard: shard.loss_mask, starts, length, np.ones((), dtype=np.bool_))

    def document_starts(self, starts: Int64s, length: int) -> tuple[Int64s, Int64s]:
        """Return where documents begin inside spans, but not at their first token: span numbers and offsets, both [n].

        A document without tokens begins where the next one does, so pairs may repeat.
        """
        spans_found: list[Int64s] = []
        offsets_found: list[Int64s] = []
        for file, spans in self._spans_by_file(starts, length):
            ends = self._shards[file].ends
            offsets = starts[spans] - self._file_starts[file]
            # The keys must have the ends' type: otherwise numpy would convert the full index on each call.
            first = np.searchsorted(ends, np.maximum(offsets, 0).astype(END_TYPE), side="right")
            last = np.searchsorted(ends, (offsets + length).astype(END_TYPE), side="left")
            counts = last - first
            which = np.repeat(np.arange(len(spans)), counts)
            nth = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
            spans_found.append(spans[which])
            offsets_found.append(ends[first[which] + nth].astype(np.int64) - offsets[which])
        if not spans_found:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(spans_found), np.concatenate(offsets_found)

    def _gather(
        self, values_of: Callable[[MappedShard], Array | None], starts: Int64s, length: int, fill: Array
    ) -> Array:
        """Return spans [k, length] of the shards' values; `fill` is the value and type of missing ones."""
        result: Array | None = None
        for file, spans in self._spans_by_file(starts, length):
            values = values_of(self._shards[file])
            offsets = starts[spans] - self._file_starts[file]
            size = int(self._file_ends[file] - self._file_starts[file])
            is_inside = (offsets >= 0) & (offsets + length <= size)  # all of the span lies in this file
            if values is not None and len(spans) == len(starts) and is_inside.all():
                gathered: Array = sliding_window_view(values, length)[offsets]  # one copy, a span at a time
                return gathered
            if result is None:
                result = np.full((len(starts), length), fill, dtype=fill.dtype)
            if values is None:
                continue
            if is_inside.any():
                result[spans[is_inside]] = sliding_window_view(values, length)[offsets[is_inside]]
            for span, offset in zip(spans[~is_inside].tolist(), offsets[~is_inside].tolist(), strict=True):
                begin, end = max(offset, 0), min(offset + length, size)
                result[span, begin - offset : end - offset] = values[begin:end]
        return np.full((len(starts), length), fill, dtype=fill.dtype) if result is None else result

    def _spans_by_file(self, starts: Int64s, length: int) -> Iterator[tuple[int, Int64s]]:
        """Yield each file that some span has tokens of, with the numbers of these spans."""
        first = np.searchsorted(self._file_ends, starts, side="right")
        last = np.searchsorted(self._file_ends, starts + (length - 1), side="right")
        last = np.minimum(last, len(self._file_ends) - 1)
        spans = np.flatnonzero(first <= last)
        while len(spans):
            files = first[spans]
            for file in np.unique(files):
                yield int(file), spans[files == file]
            first = first + 1
            spans = np.flatnonzero(first <= last)
