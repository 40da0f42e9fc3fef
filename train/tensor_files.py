"""Safetensors files one tensor at a time: what is read or written need never be in memory together.

A file (https://huggingface.co/docs/safetensors): 8 bytes, the length of a JSON header; the header, which says of each
tensor its type, shape and place; the tensors. A checkpoint's header also says, under DCP_SHARDING_INFO, where in the
whole tensor each piece begins. Nothing is mapped into memory, so that what the files hold does not count as used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from settings import UserError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # the format's own limit
_ALIGNMENT = 8  # of the first tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Part of a tensor, or all of it, in one file."""

    path: Path
    start: int  # byte of the file
    dtype: torch.dtype
    shape: Shape
    offset: Shape  # where in the whole tensor it begins


class TensorFiles:
    """The tensors of some safetensors files, by name. Raises UserError for a file that is not of the format."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._pieces: dict[str, list[Piece]] = {}
        for path in paths:
            for name, piece in _pieces(path):
                self._pieces.setdefault(name, []).append(piece)
        self.shapes = {name: _whole_shape(name, pieces) for name, pieces in self._pieces.items()}

    def read(self, name: str) -> Tensor:
        """The whole tensor, in the type of the files, in memory of its own."""
        pieces = self._pieces[name]
        whole = torch.empty(self.shapes[name], dtype=pieces[0].dtype)
        for piece in pieces:
            target = whole
            for dim, (start, size) in enumerate(zip(piece.offset, piece.shape, strict=True)):
                target = target.narrow(dim, start, size)
            direct = target if target.is_contiguous() else torch.empty(piece.shape, dtype=piece.dtype)
            with piece.path.open("rb") as file:
                file.seek(piece.start)
                _fill(file, direct, piece.path)
            if direct is not target:
                target.copy_(direct)
        return whole


def write_tensors(
    path: Path,
    shapes: Mapping[str, Shape],
    tensors: Iterable[Tensor],
    *,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
) -> None:
    """Write tensors in the order of `shapes`, each taken from `tensors` when its turn comes; flushed to disk."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)}, not {shape}"
            file.write(_bytes_of(tensor.to(dtype).contiguous()))
        file.flush()
        os.fsync(file.fileno())


def _pieces(path: Path) -> Iterable[tuple[str, Piece]]:
    header, data_start, data_bytes = _read_header(path)
    metadata = header.pop("__metadata__", {})
    try:
        offsets = json.loads(metadata.get("DCP_SHARDING_INFO", "{}"))
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if entry["dtype"] not in DTYPES:
                raise UserError(f"{path}: {name} is of type {entry['dtype']}; lehr reads {', '.join(DTYPES)}")
            dtype = DTYPES[entry["dtype"]]
            if not (0 <= start <= end <= data_bytes and end - start == math.prod(shape) * dtype.itemsize):
                raise UserError(f"{path}: {name} is said to be where the file has no such tensor; copy the file again")
            offset = tuple(offsets[name]["saved_offsets"]) if offsets else (0,) * len(shape)
            yield name, Piece(path, data_start + start, dtype, shape, offset)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no safetensors file: its header is wrong ({error!r})") from None


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, the byte at which tensors begin, and how many bytes of them there are."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise UserError(f"{path} is no safetensors file, or was cut short; copy it again")
            header = json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no safetensors file: its header is no JSON") from None
    if not isinstance(header, dict):
        raise UserError(f"{path} is no safetensors file: its header is no mapping")
    return header, 8 + length, size - 8 - length


def _whole_shape(name: str, pieces: list[Piece]) -> Shape:
    """Raises UserError where the pieces do not make a whole."""
    shape = tuple(max(piece.offset[dim] + piece.shape[dim] for piece in pieces) for dim in range(len(pieces[0].shape)))
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        files = ", ".join(piece.path.name for piece in pieces)
        raise UserError(f"{name} is not whole in {files}: a file is missing, or there are two of one")
    return shape


def _fill(file: BinaryIO, tensor: Tensor, path: Path) -> None:
    buffer = _bytes_of(tensor)
    filled = 0
    while filled < len(buffer):
        got = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not got:
            raise UserError(f"{path} was cut short while it was read")
        filled += got


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    values: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(values)
