"""Rows: what a batch consists of, how windows become rows, and the hash that proves which rows were seen.

Row r holds window w of its source: tokens [w T, w T + T) as input and [w T + 1, w T + T + 1) as targets, T being the
sequence length. Windows overlap by the one token that is the last target of one and the first input of the next, so
every token of a source but its first is a target once an epoch.

Shapes: r rows of T tokens.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.batches.order import mix64, stable_key
from data.shards.stream import Stream

Int16s: TypeAlias = NDArray[np.int16]
Int32s: TypeAlias = NDArray[np.int32]
Int64s: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

PADDING = -1  # the sample number of a row that only fills up a batch


@dataclass(frozen=True)
class Rows:
    """r rows; row i's tokens, what they should predict, and where they come from."""

    tokens: Int64s  # [r, T]
    targets: Int64s  # [r, T]
    loss_mask: Bools  # [r, T]: whether predicting targets[r, t] counts
    positions: Int64s  # [r, T]: within the row, or within the document under document masking
    documents: Int32s  # [r, T]: document number within the row, from 0; all 0 without document masking
    sources: Int16s  # [r]
    samples: Int64s  # [r]: sample number within the source's stream of samples; PADDING for rows that only fill up

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice) -> Rows:
        """Some of the rows, as views."""
        return Rows(
            tokens=self.tokens[rows],
            targets=self.targets[rows],
            loss_mask=self.loss_mask[rows],
            positions=self.positions[rows],
            documents=self.documents[rows],
            sources=self.sources[rows],
            samples=self.samples[rows],
        )

    def micro_batches(self, micro_batch_size: int) -> Iterator[Rows]:
        """The rows in order, `micro_batch_size` at a time."""
        for first in range(0, len(self), micro_batch_size):
            yield self[first : first + micro_batch_size]


class RowBuffers:
    """Memory for rows, used again once nothing refers to it.

    A fresh batch is fresh pages, and to fault them in takes many times longer than to fill them. A buffer counts as
    free when only this list holds it: rows, and tensors made of them, keep theirs, so no batch changes under its owner.
    """

    def __init__(self) -> None:
        self._buffers: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def allocate(self, rows: int, seq_length: int, *, sources: Int16s, samples: Int64s) -> Rows:
        """Rows [rows, seq_length] whose arrays hold anything, but for sources and samples [rows]."""
        cells = rows * seq_length
        kinds = (np.int64, np.int64, np.int64, np.int32, np.bool_)
        buffer = self._take(cells * sum(np.dtype(kind).itemsize for kind in kinds))
        arrays: list[NDArray[Any]] = []
        at = 0
        for kind in kinds:
            end = at + cells * np.dtype(kind).itemsize
            arrays.append(buffer[at:end].view(kind).reshape(rows, seq_length))
            at = end
        tokens, targets, positions, documents, loss_mask = arrays
        return Rows(tokens, targets, loss_mask, positions, documents, sources, samples)

    def _take(self, size: int) -> NDArray[np.uint8]:
        with self._lock:
            for buffer in self._buffers:
                # Referred to by the list, by `buffer` and by getrefcount's argument alone: nobody else can get at it.
                if buffer.size == size and sys.getrefcount(buffer) == 3:
                    return buffer
            self._buffers.append(np.empty(size, dtype=np.uint8))
            return self._buffers[-1]


def assemble(
    streams: list[Stream],
    *,
    sources: Int16s,
    samples: Int64s,
    windows: Int64s,
    seq_length: int,
    document_masking: bool,
    buffers: RowBuffers,
) -> Rows:
    """The rows [r] that hold windows [r] of their sources' streams; past a stream's end, tokens 0 without loss."""
    rows = buffers.allocate(len(samples), seq_length, sources=sources, samples=samples)
    rows.loss_mask[...] = True
    starts_of_documents = [np.empty(0, dtype=np.int64)]  # as cells of the rows laid end to end
    for source in np.unique(sources):
        here = np.flatnonzero(sources == source)
        stream = streams[source]
        starts = windows[here] * seq_length
        tokens = stream.read(starts, seq_length + 1)
        rows.tokens[here] = tokens[:, :-1]
        rows.targets[here] = tokens[:, 1:]
        if stream.has_loss_mask:
            rows.loss_mask[here] = stream.read_loss_mask(starts + 1, seq_length)
        for row in here[starts + seq_length >= stream.tokens].tolist():
            rows.loss_mask[row, max(stream.tokens - int(windows[row]) * seq_length - 1, 0) :] = False
        if document_masking:
            which, offsets = stream.document_starts(starts, seq_length)
            starts_of_documents.append(here[which] * seq_length + offsets)
    _number_documents(rows, np.unique(np.concatenate(starts_of_documents)))
    return rows


def _number_documents(rows: Rows, cells: Int64s) -> None:
    """Fill in documents and positions, given the cells (row * T + offset, sorted) where documents begin inside rows."""
    seq_length = rows.tokens.shape[1]
    rows.documents[...] = 0
    if not len(cells):
        rows.positions[...] = np.arange(seq_length)
        return
    row_starts = cells - cells % seq_length
    # Where the document before began, in the row.
    previous = np.maximum(np.concatenate([[0], cells[:-1]]), row_starts)
    rows.documents.reshape(-1)[cells] = 1
    np.cumsum(rows.documents, axis=1, out=rows.documents)
    # Positions as running sums: one up at each token, and back to 0 where a document begins.
    rows.positions[...] = 1
    rows.positions[:, 0] = 0
    rows.positions.reshape(-1)[cells] = 1 - (cells - previous)
    np.cumsum(rows.positions, axis=1, out=rows.positions)


def batch_hash(rows: Rows, *, first_row: int) -> int:
    """A signed 64-bit hash of which rows these are, in order: sources, sample numbers, every token and target.

    `first_row` is the place of rows[0] in the global batch. The hash of a batch is the sum modulo 2^64 of those of its
    parts, so data ranks combine theirs by one all-reduce of int64 (which wraps around), and any cut gives the same sum.
    Tokens enter by multilinear hashing (a random odd multiplier for each place), and mix64 closes each row.
    """
    seq_length = rows.tokens.shape[1]
    places = np.arange(2 * seq_length, dtype=np.uint64) + np.uint64(stable_key("batch hash") >> 1)
    multipliers = mix64(places) | np.uint64(1)
    hashes = np.arange(first_row, first_row + len(rows), dtype=np.uint64)
    for part in (rows.sources.astype(np.uint64), rows.samples.astype(np.uint64)):
        hashes = mix64(hashes) + part
    hashes = mix64(hashes)
    hashes += rows.tokens.view(np.uint64) @ multipliers[:seq_length]
    hashes += rows.targets.view(np.uint64) @ multipliers[seq_length:]
    return int(mix64(hashes).sum(dtype=np.uint64).astype(np.int64))
