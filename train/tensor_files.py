"""Whole tensors from safetensors files, one at a time: what the files hold need never be in memory together.

Nothing is mapped into memory, so that what the files hold does not count as used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from settings import UserError
from train.safetensors_file import Shape, SliceInfo, bytes_of, read_header


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
        slices = self._slices[name]
        whole = torch.empty(self.shapes[name], dtype=slices[0][1].dtype)
        for path, part in slices:
            target = whole
            for dim, (start, size) in enumerate(zip(part.offsets, part.shape, strict=True)):
                target = target.narrow(dim, start, size)
            direct = target if target.is_contiguous() else torch.empty(part.shape, dtype=part.dtype)
            with path.open("rb") as file:
                file.seek(part.start)
                _fill(file, direct, path)
            if direct is not target:
                target.copy_(direct)
        return whole


def _header_of(path: Path) -> dict[str, SliceInfo]:
    try:
        return read_header(path)
    except UserError as error:
        raise UserError(f"{path.parent}: {error}; copy it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _whole_shape(name: str, slices: list[tuple[Path, SliceInfo]]) -> Shape:
    """Raises UserError where the slices do not make a whole."""
    parts = [part for _, part in slices]
    if len({(part.dtype, len(part.shape)) for part in parts}) == 1:
        shape = tuple(max(part.offsets[dim] + part.shape[dim] for part in parts) for dim in range(len(parts[0].shape)))
        if sum(math.prod(part.shape) for part in parts) == math.prod(shape):
            return shape
    files = ", ".join(path.name for path, _ in slices)
    raise UserError(f"{name} is not whole in {files}: a file is missing, or there are two of one")


def _fill(file: BinaryIO, tensor: Tensor, path: Path) -> None:
    buffer = bytes_of(tensor)
    filled = 0
    while filled < len(buffer):
        got = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not got:
            raise UserError(f"{path} was cut short while it was read")
        filled += got
