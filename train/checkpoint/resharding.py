"""Tensors from safetensors files, whole or in part, whatever slices the files hold.

A piece at a time goes from the disk into the place where it is wanted: what the files hold is never in memory twice.
Nothing is mapped into memory, so that what the files hold does not count as used.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from settings import UserError
from settings.files import naming
from train.checkpoint.safetensors_file import Shape, SliceInfo, bytes_of, read_header

_PIECE_BYTES = 8 * 2**20  # of one read, or of the rows that are read one by one
_LEAP_BYTES = 16 * 2**10  # between what is wanted of two rows: to read on over fewer is quicker than to begin anew
Box = tuple[slice, ...]  # a range of every dim


class TensorFiles:
    """The tensors of some safetensors files, by name. Raises UserError for a file that is not of the format."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._slices: dict[str, list[tuple[Path, SliceInfo]]] = {}
        for path in paths:
            for name, part in _header_of(path).items():
                self._slices.setdefault(name, []).append((path, part))
        self.shapes = {name: _whole_shape(name, slices) for name, slices in self._slices.items()}

    def read(self, name: str) -> Tensor:
        """The whole tensor, in the type of the files, in memory of its own."""
        whole = torch.empty(self.shapes[name], dtype=self._slices[name][0][1].dtype)
        self.read_into(name, whole, (0,) * whole.ndim)
        return whole

    def read_into(self, name: str, target: Tensor, offsets: Sequence[int]) -> None:
        """Fill `target` in place with that part of the tensor which begins at `offsets`.

        It may be of any type, on any device, and need not be contiguous. Raises UserError where the files do not hold
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
    """A part of a slice into a tensor of its shape: rows of the slice, as many at a time as make a piece."""
    if not box:  # a single number
        part, box, target = SliceInfo(part.dtype, (1,), (0,), part.start), (slice(0, 1),), target.view(1)
    rows, *others = box
    row, wanted = part.shape[1:], target.shape[1:]
    row_bytes, wanted_bytes = (part.dtype.itemsize * math.prod(shape) for shape in (row, wanted))
    count = max(1, _PIECE_BYTES // row_bytes)
    leap = len(row) == 1 and row_bytes - wanted_bytes >= _LEAP_BYTES
    read = wanted if leap else row
    direct = read == wanted and (target.dtype, target.device.type) == (part.dtype, "cpu")
    buffer = None
    place = part.start + rows.start * row_bytes
    for piece in target.split(count):
        into = piece
        if not direct or not piece.is_contiguous():
            buffer = torch.empty((len(piece), *read), dtype=part.dtype) if buffer is None else buffer
            into = buffer[: len(piece)]
        if leap:
            _fill(file, into, place + others[0].start * part.dtype.itemsize, wanted_bytes, row_bytes)
        else:
            _fill(file, into, place, into.nbytes, 0)
        if into is not piece:
            piece.copy_(into if leap else into[(slice(None), *others)])
        place += len(piece) * row_bytes


def _box(offsets: Sequence[int], shape: Sequence[int]) -> Box:
    return tuple(slice(start, start + size) for start, size in zip(offsets, shape, strict=True))


def _within(box: Box, offsets: Sequence[int]) -> Box:
    """The same box as seen from `offsets`."""
    return tuple(slice(each.start - start, each.stop - start) for each, start in zip(box, offsets, strict=True))


def _common(one: Box, other: Box) -> Box | None:
    """What two boxes have in common; None where that is nothing."""
    both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return None if any(each.start >= each.stop for each in both) else both


def _header_of(path: Path) -> dict[str, SliceInfo]:
    try:
        return read_header(path)
    except UserError as error:
        raise UserError(f"{path.parent}: {error}; copy it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _whole_shape(name: str, slices: list[tuple[Path, SliceInfo]]) -> Shape:
    """Raises UserError where the slices do not make a whole, every value of it once."""
    parts = [part for _, part in slices]
    if len({(part.dtype, len(part.shape)) for part in parts}) == 1:
        shape = tuple(max(part.offsets[dim] + part.shape[dim] for part in parts) for dim in range(len(parts[0].shape)))
        boxes = [_box(part.offsets, part.shape) for part in parts]
        apart = all(_common(one, other) is None for one, other in itertools.combinations(boxes, 2))
        if apart and sum(math.prod(part.shape) for part in parts) == math.prod(shape):
            return shape
    files = ", ".join(path.name for path, _ in slices)
    raise UserError(f"{name} is not whole in {files}: a file is missing, or there are two of one")


def _fill(file: BinaryIO, tensor: Tensor, place: int, run_bytes: int, stride: int) -> None:
    """The memory of a contiguous tensor from runs of bytes, the first at `place` and each `stride` after the last."""
    values = bytes_of(tensor)
    for start in range(0, len(values), run_bytes):
        filled, run = 0, values[start : start + run_bytes]
        while filled < run_bytes:
            got = os.preadv(file.fileno(), [run[filled:]], place + filled)
            if not got:
                raise UserError(f"{file.name} was cut short while it was read")
            filled += got
        place += stride
