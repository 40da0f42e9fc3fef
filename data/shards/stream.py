"""The token stream of one split of one source: its shard files one after the other, memory-mapped.

A sequence may cross from one file into the next: the end of a document is a boundary of the text, and the end of a file
is not. So the same documents in files of other sizes give the same sequences.

Shapes: k spans of `length` tokens. Positions in the stream count the tokens of all files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data.shards.dataset_json import ShardFile, SplitInfo
from settings import UserError

Int64s: TypeAlias = NDArray[np.int64]
UInt64s: TypeAlias = NDArray[np.uint64]
Array: TypeAlias = NDArray[Any]

_TOKEN_TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_INDEX_CHUNK = 2**20  # entries of an index that are checked together
_END_TYPE: np.dtype[Any] = np.dtype("<u8")


class TokenStream:
    """The memory-mapped files of a split. Only what is requested is read, and nothing is cached."""

    def __init__(self, folder: Path, split: SplitInfo, *, token_bytes: int) -> None:
        """Map the files of a split; `folder` is the source's.

        Raises UserError if a file is missing, if its size is not dataset.json's, or if an index is of another shard.
        """
        files = [file for file in split.files if file.tokens]  # an empty file cannot be mapped
        for file in split.files:
            _check_sizes(folder, file, token_bytes)
        self.token_type = _TOKEN_TYPES[token_bytes]
        self._paths = [folder / file.path for file in files]
        self._tokens = [_map(folder / file.path, self.token_type) for file in files]
        self._ends = [_map(folder / f"{file.path}.index", _END_TYPE) for file in files]
        self._loss = [
            _map(folder / f"{file.path}.loss", np.dtype(np.bool_)) if file.loss_sha256 else None for file in files
        ]
        for file, tokens, ends in zip(files, self._tokens, self._ends, strict=True):
            if not len(ends) or ends[-1] != len(tokens):
                last = ends[-1] if len(ends) else "nothing"
                raise UserError(
                    f"{folder / file.path}.index ends with {last} but the shard has {len(tokens)} tokens: "
                    "they do not belong together; build the shards again with `lehr data build`"
                )
        self._file_ends = np.cumsum([file.tokens for file in files], dtype=np.int64)
        self._file_starts = self._file_ends - np.array([file.tokens for file in files], dtype=np.int64)
        self.tokens = int(self._file_ends[-1]) if files else 0
        self.has_loss_mask = any(loss is not None for loss in self._loss)

    def check_documents(self) -> None:
        """Raise UserError if an index does not ascend. Reads every index in full."""
        for path, ends in zip(self._paths, self._ends, strict=True):
            for first in range(0, len(ends), _INDEX_CHUNK):
                chunk = ends[first : first + _INDEX_CHUNK + 1]
                if np.any(chunk[1:] < chunk[:-1]):
                    raise UserError(
                        f"{path}.index does not ascend: it is garbled; build the shards again with `lehr data build`"
                    )

    def read(self, starts: Int64s, length: int) -> Array:
        """Return tokens [k, length] from positions `starts` [k], in the shards' type; 0 past the end of the stream."""
        return self._gather(self._tokens, starts, length, np.zeros((), dtype=self.token_type))

    def read_loss_mask(self, starts: Int64s, length: int) -> NDArray[np.bool_]:
        """Return whether predicting each token [k, length] counts: its `.ds.loss` byte, or True without such a file."""
        return self._gather(self._loss, starts, length, np.ones((), dtype=np.bool_))

    def document_starts(self, starts: Int64s, length: int) -> tuple[Int64s, Int64s]:
        """Return where documents begin inside spans, but not at their first token: span numbers and offsets, both [n].

        A document without tokens begins where the next one does, so pairs may repeat.
        """
        spans_found: list[Int64s] = []
        offsets_found: list[Int64s] = []
        for file, spans in self._spans_by_file(starts, length):
            ends = self._ends[file]
            offsets = starts[spans] - self._file_starts[file]
            # The keys must have the ends' type: otherwise numpy would convert the full index on each call.
            first = np.searchsorted(ends, np.maximum(offsets, 0).astype(_END_TYPE), side="right")
            last = np.searchsorted(ends, (offsets + length).astype(_END_TYPE), side="left")
            counts = last - first
            which = np.repeat(np.arange(len(spans)), counts)
            nth = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
            spans_found.append(spans[which])
            offsets_found.append(ends[first[which] + nth].astype(np.int64) - offsets[which])
        if not spans_found:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(spans_found), np.concatenate(offsets_found)

    def _gather(self, files: list[Any], starts: Int64s, length: int, fill: Array) -> Array:
        """Return spans [k, length] of `files`, each an array or None; `fill` is the value and type of missing ones."""
        result: Array | None = None
        for file, spans in self._spans_by_file(starts, length):
            values = files[file]
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


def _check_sizes(folder: Path, file: ShardFile, token_bytes: int) -> None:
    """Raise UserError if one of the shard's files is missing or has another size than dataset.json records."""
    sizes = {file.path: file.tokens * token_bytes, f"{file.path}.index": file.documents * _END_TYPE.itemsize}
    if file.loss_sha256:
        sizes[f"{file.path}.loss"] = file.tokens
    for name, expected in sizes.items():
        path = folder / name
        try:
            size = os.stat(path).st_size
        except OSError as error:
            raise UserError(
                f"shard {path} cannot be opened ({error.strerror}) but {folder / 'dataset.json'} lists it; "
                "put it back or build the shards again with `lehr data build`"
            ) from None
        if size != expected:
            raise UserError(
                f"shard {path} has {size} bytes but {folder / 'dataset.json'} says {expected}: "
                "it is cut short or altered; copy it again, or build the shards again with `lehr data build`"
            )


def _map(path: Path, dtype: np.dtype[Any]) -> Array:
    """Maps a file as a read-only array, without a file descriptor (np.memmap holds one for each file).

    A corpus can have more shards than a process may open files, and a shuffled order soon touches all of them.
    """
    import torch  # late, since it takes seconds

    size = os.stat(path).st_size
    if size == 0:
        return np.empty(0, dtype=dtype)
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy().view(dtype)
    mapped.flags.writeable = False
    return mapped
