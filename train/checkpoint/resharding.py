"""Tensors from safetensors files, full or sharded, whatever slices the files hold.

Values are read from the disk in chunks, straight into the tensor that needs them: they are never in memory twice. The
files are not mapped into memory, so that they do not count as used memory.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from settings import UserError
from settings.files import naming
from train.checkpoint.safetensors_file import (
    FLOAT_DTYPES,
    Shape,
    SliceInfo,
    UnsupportedDtypeError,
    bytes_of,
    read_header,
)

_CHUNK_BYTES = 8 * 2**20  # of one read, or of the rows that are read one by one
_LEAP_BYTES = 16 * 2**10  # a smaller gap between the wanted parts of two rows is read over: it is quicker
Box = tuple[slice, ...]  # a range of every dim


class TensorFiles:
    """The tensors of several safetensors files, by name. Raises UserError for a file that is not of the format.

    `skip`: patterns of the names of tensors that are not wanted; these may be of any type. `only_floats`: a tensor of
    bools raises UnsupportedDtypeError, as those of other types do.
    """

    def __init__(self, paths: Iterable[Path], *, skip: Sequence[str] = (), only_floats: bool = False) -> None:
        headers = [(path, _header_of(path, skip)) for path in paths]
        for path, header in headers:
            for name, part in header.items():
                if only_floats and part.dtype == torch.bool:
                    raise UnsupportedDtypeError(
                        f"{path.parent}: {path.name}: {name} is of type BOOL; lehr reads {', '.join(FLOAT_DTYPES)}"
                    )
        self._take(headers)

    @classmethod
    def of_headers(cls, folder: Path, headers: Mapping[str, Mapping[str, Any]]) -> TensorFiles:
        """Returns the tensors of files in `folder` whose `headers` another process has read. No file is opened yet."""
        files = cls(())
        files._take(
            [
                (folder / name, {tensor: SliceInfo.from_plain(part) for tensor, part in header.items()})
                for name, header in headers.items()
            ]
        )
        return files

    def headers(self) -> dict[str, dict[str, Any]]:
        """Returns the headers of all files by file name, as JSON for `of_headers`."""
        plain: dict[str, dict[str, Any]] = {}
        for tensor, slices in self._slices.items():
            for path, part in slices:
                plain.setdefault(path.name, {})[tensor] = part.to_plain()
        return plain

    def _take(self, headers: Iterable[tuple[Path, Mapping[str, SliceInfo]]]) -> None:
        self._slices: dict[str, list[tuple[Path, SliceInfo]]] = {}
        for path, header in headers:
            for name, part in header.items():
                self._slices.setdefault(name, []).append((path, part))
        self.shapes = {name: _full_shape(name, slices) for name, slices in self._slices.items()}

    def read(self, name: str) -> Tensor:
        """Reads the full tensor, in the files' dtype."""
        full = torch.empty(self.shapes[name], dtype=self._slices[name][0][1].dtype)
        self.read_into(name, full, (0,) * full.ndim)
        return full

    def read_into(self, name: str, target: Tensor, offsets: Sequence[int]) -> None:
        """Fills `target` in place with the part of the tensor that begins at `offsets`.

        `target` may have any dtype and device, and need not be contiguous. Raises UserError if the files do not hold
        all of the part, and OSError.
        """
        if name not in self.shapes:
            raise UserError(f"{name} is in none of the files")
        shape, wanted = self.shapes[name], _box(offsets, target.shape)
        if len(shape) != target.ndim or any(each.stop > size for each, size in zip(wanted, shape, strict=True)):
            raise UserError(f"{name} is {list(shape)}: it has no part {list(target.shape)} at {list(offsets)}")
        for path, part in self._slices[name]:
            common = _common(wanted, _box(part.offsets, part.shape))
            if common is not None:
                with naming(path), path.open("rb", buffering=0) as file:
                    _read_box(file, part, _within(common, part.offsets), target.detach()[_within(common, offsets)])


def _read_box(file: BinaryIO, part: SliceInfo, box: Box, target: Tensor) -> None:
    """Reads a part of a slice into a tensor of its shape: a chunk of rows at a time."""
    if not box:  # a single number
        part, box, target = SliceInfo(part.dtype, (1,), (0,), part.start), (slice(0, 1),), target.view(1)
    rows, *others = box
    row, wanted = part.shape[1:], target.shape[1:]
    row_bytes, wanted_bytes = (part.dtype.itemsize * math.prod(shape) for shape in (row, wanted))
    count = max(1, _CHUNK_BYTES // row_bytes)
    leap = len(row) == 1 and row_bytes - wanted_bytes >= _LEAP_BYTES
    read = wanted if leap else row
    direct = read == wanted and (target.dtype, target.device.type) == (part.dtype, "cpu")
    buffer = None
    place = part.start + rows.start * row_bytes
    for chunk in target.split(count):
        into = chunk
        if not direct or not chunk.is_contiguous():
            buffer = torch.empty((len(chunk), *read), dtype=part.dtype) if buffer is None else buffer
            into = buffer[: len(chunk)]
        if leap:
            _fill(file, into, place + others[0].start * part.dtype.itemsize, wanted_bytes, row_bytes)
        else:
            _fill(file, into, place, into.nbytes, 0)
        if into is not chunk:
            chunk.copy_(into if leap else into[(slice(None), *others)])
        place += len(chunk) * row_bytes


def _box(offsets: Sequence[int], shape: Sequence[int]) -> Box:
    return tuple(slice(start, start + size) for start, size in zip(offsets, shape, strict=True))


def _within(box: Box, offsets: Sequence[int]) -> Box:
    """Returns the same box relative to `offsets`."""
    return tuple(slice(each.start - start, each.stop - start) for each, start in zip(box, offsets, strict=True))


def _common(one: Box, other: Box) -> Box | None:
    """Returns what two boxes have in common; None if they are disjoint."""
    both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return None if any(each.start >= each.stop for each in both) else both


def _header_of(path: Path, skip: Sequence[str]) -> dict[str, SliceInfo]:
    try:
        return read_header(path, skip=skip)
    except UnsupportedDtypeError as error:
        raise UnsupportedDtypeError(f"{path.parent}: {error}") from None
    except UserError as error:
        raise UserError(f"{path.parent}: {error}; copy it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _full_shape(name: str, slices: list[tuple[Path, SliceInfo]]) -> Shape:
    """Returns the shape of the tensor that the slices make up. Raises UserError unless they hold every value once."""
    parts = [part for _, part in slices]
    if len({(part.dtype, len(part.shape)) for part in parts}) == 1:
        shape = tuple(max(part.offsets[dim] + part.shape[dim] for part in parts) for dim in range(len(parts[0].shape)))
        boxes = [_box(part.offsets, part.shape) for part in parts]
        disjoint = all(_common(one, other) is None for one, other in itertools.combinations(boxes, 2))
        if disjoint and sum(math.prod(part.shape) for part in parts) == math.prod(shape):
            return shape
    files = ", ".join(path.name for path, _ in slices)
    raise UserError(f"{name} is not complete in {files}: a file is missing, or is there twice")


def _fill(file: BinaryIO, tensor: Tensor, place: int, chunk_bytes: int, stride: int) -> None:
    """Fills a contiguous tensor from chunks of bytes, the first at `place` and each `stride` after the last."""
    values = bytes_of(tensor)
    for start in range(0, len(values), chunk_bytes):
        filled, chunk = 0, values[start : start + chunk_bytes]
        while filled < chunk_bytes:
            got = os.preadv(file.fileno(), [chunk[filled:]], place + filled)
            if not got:
                raise UserError(f"{file.name} was cut short while it was read")
            filled += got
        place += stride
