"""A batch: its arrays, how sequences of token streams are assembled into it, and the hash that identifies its content.

Row r of a batch holds one sequence of its source. Sequence s has the tokens [s T, s T + T) as input and
[s T + 1, s T + T + 1) as targets, with T the sequence length. Neighbouring sequences share one token, the last target
of one and the first input of the next, so that every token of a source but the first is a target once an epoch.

Shapes: r rows of T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.batches.buffers import BufferPool
from data.batches.order import mix64, stable_key
from data.shards.stream import TokenStream

Int16s: TypeAlias = NDArray[np.int16]
Int32s: TypeAlias = NDArray[np.int32]
Int64s: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

_TOKEN_DTYPES = (np.int64, np.int64, np.int64, np.int32, np.bool_)  # as `_allocate` names them
BYTES_PER_TOKEN = sum(np.dtype(dtype).itemsize for dtype in _TOKEN_DTYPES)  # of a batch
PADDING = -1  # the sample number of a row that only fills up a batch


def num_sequences(tokens: int, seq_length: int) -> int:
    """Return how many full sequences a stream of `tokens` holds: each needs seq_length + 1 tokens and shares one."""
    return max(tokens - 1, 0) // seq_length


@dataclass(frozen=True)
class Batch:
    """r rows: their tokens, what the tokens should predict, and where the rows come from."""

    tokens: Int64s  # [r, T]
    targets: Int64s  # [r, T]
    loss_mask: Bools  # [r, T]: whether predicting targets[r, t] counts
    positions: Int64s  # [r, T]: within the row, or within the document under document masking
    documents: Int32s  # [r, T]: document number within the row, from 0; all 0 without document masking
    sources: Int16s  # [r]: source number, as in Shards.names
    samples: Int64s  # [r]: sample number within the source's order; PADDING for rows that only fill up the batch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice) -> Batch:
        """Return some of the rows, as views."""
        return Batch(
            tokens=self.tokens[rows],
            targets=self.targets[rows],
            loss_mask=self.loss_mask[rows],
            positions=self.positions[rows],
            documents=self.documents[rows],
            sources=self.sources[rows],
            samples=self.samples[rows],
        )

    def micro_batches(self, micro_batch_size: int) -> Iterator[Batch]:
        """Yield the rows in order, `micro_batch_size` at a time."""
        for first in range(0, len(self), micro_batch_size):
            yield self[first : first + micro_batch_size]


def assemble_batch(
    streams: list[TokenStream],
    *,
    sources: Int16s,
    samples: Int64s,
    sequences: Int64s,
    seq_length: int,
    document_masking: bool,
    buffers: BufferPool,
) -> Batch:
    """Return the batch whose row i is sequence `sequences[i]` of source `sources[i]`; all three arrays are [r].

    Positions past a stream's end have token 0 and a loss mask of False.
    """
    batch = _allocate(buffers, seq_length, sources=sources, samples=samples)
    batch.loss_mask[...] = True
    document_starts = [np.empty(0, dtype=np.int64)]  # as cells: row * T + offset
    for source in np.unique(sources):
        rows = np.flatnonzero(sources == source)
        stream = streams[source]
        starts = sequences[rows] * seq_length
        tokens = stream.read(starts, seq_length + 1)
        batch.tokens[rows] = tokens[:, :-1]
        batch.targets[rows] = tokens[:, 1:]
        if stream.has_loss_mask:
            batch.loss_mask[rows] = stream.read_loss_mask(starts + 1, seq_length)
        for row in rows[starts + seq_length >= stream.tokens].tolist():
            batch.loss_mask[row, max(stream.tokens - int(sequences[row]) * seq_length - 1, 0) :] = False
        if document_masking:
            which, offsets = stream.document_starts(starts, seq_length)
            document_starts.append(rows[which] * seq_length + offsets)
    _number_documents(batch, np.unique(np.concatenate(document_starts)))
    return batch


def _allocate(buffers: BufferPool, seq_length: int, *, sources: Int16s, samples: Int64s) -> Batch:
    """Return a batch in one buffer; only `sources` and `samples` are filled in."""
    rows = len(samples)
    cells = rows * seq_length
    buffer = buffers.take(cells * BYTES_PER_TOKEN)
    arrays: list[NDArray[Any]] = []
    begin = 0
    for dtype in _TOKEN_DTYPES:
        end = begin + cells * np.dtype(dtype).itemsize
        arrays.append(buffer[begin:end].view(dtype).reshape(rows, seq_length))
        begin = end
    tokens, targets, positions, documents, loss_mask = arrays
    return Batch(tokens, targets, loss_mask, positions, documents, sources, samples)


def _number_documents(batch: Batch, cells: Int64s) -> None:
    """Fill in `documents` and `positions`, given the sorted cells (row * T + offset) where documents begin in rows."""
    seq_length = batch.tokens.shape[1]
    batch.documents[...] = 0
    if not len(cells):
        batch.positions[...] = np.arange(seq_length)
        return
    row_starts = cells - cells % seq_length
    # The cell where the document before began, or where the row begins.
    previous = np.maximum(np.concatenate([[0], cells[:-1]]), row_starts)
    batch.documents.reshape(-1)[cells] = 1
    np.cumsum(batch.documents, axis=1, out=batch.documents)
    # Positions are running sums of 1 a token, and of a step back to 0 where a document begins.
    batch.positions[...] = 1
    batch.positions[:, 0] = 0
    batch.positions.reshape(-1)[cells] = 1 - (cells - previous)
    np.cumsum(batch.positions, axis=1, out=batch.positions)


def batch_hash(batch: Batch, *, first_row: int) -> int:
    """Return a signed 64-bit hash of the batch's rows in order: sources, sample numbers, every token and target.

    `first_row` is the index of the batch's row 0 in the global batch. The hash of a batch is the sum modulo 2^64 of the
    hashes of its rows, so data ranks add theirs up in one all-reduce of int64, which wraps around, and any way of
    splitting the global batch gives the same sum. Tokens enter by multilinear hashing, with a random odd multiplier for
    each place, and mix64 closes each row.
    """
    seq_length = batch.tokens.shape[1]
    places = np.arange(2 * seq_length, dtype=np.uint64) + np.uint64(stable_key("batch hash") >> 1)
    multipliers = mix64(places) | np.uint64(1)
    hashes = np.arange(first_row, first_row + len(batch), dtype=np.uint64)
    for part in (batch.sources.astype(np.uint64), batch.samples.astype(np.uint64)):
        hashes = mix64(hashes) + part
    hashes = mix64(hashes)
    hashes += batch.tokens.view(np.uint64) @ multipliers[:seq_length]
    hashes += batch.targets.view(np.uint64) @ multipliers[seq_length:]
    return int(mix64(hashes).sum(dtype=np.uint64).astype(np.int64))
