"""The tokens of one split of one source, as one stream: its shard files one after the other, memory-mapped.

A window may cross from a file into the next: where the builder happened to end a file is no boundary of the text (the
end of a document is, and files end with one). So shards cut at other places give the same windows.

Shapes: k windows of `length` tokens; positions in the stream are counted in tokens over all files.
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
_PIECE = 2**20  # of an index, looked at together
_END_TYPE: np.dtype[Any] = np.dtype("<u8")


class Stream:
    """A split's files, opened. Nothing is read before it is asked for, and nothing is kept."""

    def __init__(self, folder: Path, split: SplitInfo, *, token_bytes: int) -> None:
        """`folder` is the source's. Raises UserError where a file is missing or its size is not dataset.json's."""
        files = [file for file in split.files if file.tokens]  # an empty file cannot be mapped, and holds nothing
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
        """Raise UserError where an index does not ascend. Reads all of it, a piece at a time."""
        for path, ends in zip(self._paths, self._ends, strict=True):
            for first in range(0, len(ends), _PIECE):
                piece = ends[first : first + _PIECE + 1]
                if np.any(piece[1:] < piece[:-1]):
                    raise UserError(
                        f"{path}.index does not ascend: it is garbled; build the shards again with `lehr data build`"
                    )

    def read(self, starts: Int64s, length: int) -> Array:
        """Tokens [k, length] in the shards' own type, from positions `starts` [k]; 0 past the end of the stream."""
        return self._gather(self._tokens, starts, length, np.zeros((), dtype=self.token_type))

    def read_loss_mask(self, starts: Int64s, length: int) -> NDArray[np.bool_]:
        """For each token [k, length], whether predicting it counts: its `.ds.loss`; True where a file has none."""
        return self._gather(self._loss, starts, length, np.ones((), dtype=np.bool_))

    def document_starts(self, starts: Int64s, length: int) -> tuple[Int64s, Int64s]:
        """Where documents begin inside windows, their first token aside: window numbers and offsets, [n] each.

        A document without tokens begins where the next one does, so pairs may repeat.
        """
        windows: list[Int64s] = []
        offsets: list[Int64s] = []
        for file, inside in self._touched(starts, length):
            ends = self._ends[file]
            origin = starts[inside] - self._file_starts[file]  # of the windows, in this file's positions
            # The keys must have the ends' type: otherwise numpy would convert the whole index on each call.
            first = np.searchsorted(ends, np.maximum(origin, 0).astype(_END_TYPE), side="right")
            last = np.searchsorted(ends, (origin + length).astype(_END_TYPE), side="left")
            counts = last - first
            which = np.repeat(np.arange(len(inside)), counts)
            nth = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
            windows.append(inside[which])
            offsets.append(ends[first[which] + nth].astype(np.int64) - origin[which])
        if not windows:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(windows), np.concatenate(offsets)

    def _gather(self, files: list[Any], starts: Int64s, length: int, fill: Array) -> Array:
        """Windows [k, length] out of `files`, each an array or None; `fill` is the value and type of what is absent."""
        result: Array | None = None
        for file, inside in self._touched(starts, length):
            values = files[file]
            origin = starts[inside] - self._file_starts[file]
            size = int(self._file_ends[file] - self._file_starts[file])
            if values is not None and len(inside) == len(starts) and _whole(origin, length, size).all():
                gathered: Array = sliding_window_view(values, length)[origin]  # one copy, a window at a time
                return gathered
            if result is None:
                result = np.full((len(starts), length), fill, dtype=fill.dtype)
            if values is None:
                continue
            whole = _whole(origin, length, size)
            if whole.any():
                result[inside[whole]] = sliding_window_view(values, length)[origin[whole]]
            for window, at in zip(inside[~whole].tolist(), origin[~whole].tolist(), strict=True):
                begin, end = max(at, 0), min(at + length, size)
                result[window, begin - at : end - at] = values[begin:end]
        return np.full((len(starts), length), fill, dtype=fill.dtype) if result is None else result

    def _touched(self, starts: Int64s, length: int) -> Iterator[tuple[int, Int64s]]:
        """Each file that some window has tokens of, with the numbers of these windows."""
        first = np.searchsorted(self._file_ends, starts, side="right")
        last = np.searchsorted(self._file_ends, starts + (length - 1), side="right")
        last = np.minimum(last, len(self._file_ends) - 1)
        inside = np.flatnonzero(first <= last)
        while len(inside):
            files = first[inside]
            for file in np.unique(files):
                yield int(file), inside[files == file]
            first = first + 1
            inside = np.flatnonzero(first <= last)


def _whole(origin: Int64s, length: int, size: int) -> NDArray[np.bool_]:
    """Which windows lie in a file of `size` tokens from end to end."""
    return (origin >= 0) & (origin + length <= size)


def _check_sizes(folder: Path, file: ShardFile, token_bytes: int) -> None:
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
    """The file as an array, mapped; a plain array, because slices of np.memmap cost a microsecond each."""
    if os.stat(path).st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
