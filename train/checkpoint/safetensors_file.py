"""Safetensors files of full tensors or of slices: written a tensor at a time, and not trusted when read.

A file (https://huggingface.co/docs/safetensors) is an unsigned 64-bit length, a JSON header of that length with the
dtype, shape and place of each tensor, and the values. The header's metadata says where a slice begins in its tensor,
under the key of torch's HuggingFaceStorageWriter, so that torch's distributed checkpoint reads it. That writer first
builds the file in memory, three times over; here values go straight from the tensors to the disk, a chunk at a time,
hashed on the way.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from settings import UserError
from settings.files import naming

FLOAT_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = {**FLOAT_DTYPES, "BOOL": torch.bool}  # bools are masks in optimizer state
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SLICES_KEY, _OFFSETS_KEY = "DCP_SHARDING_INFO", "saved_offsets"
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_CHUNK_BYTES = 8 * 2**20  # of one write: small enough that a step's own reads and writes get their turn

Shape = tuple[int, ...]


class UnsupportedDtypeError(UserError):
    """A file has a tensor of a type that lehr does not read."""


@dataclass(frozen=True)
class SliceInfo:
    """The part of a tensor that a file holds: all of it, or the slice that begins at `offsets`."""

    dtype: torch.dtype
    shape: Shape
    offsets: Shape
    start: int  # byte of the file

    def to_plain(self) -> list[Any]:
        """Returns the values as JSON."""
        return [_NAMES[self.dtype], list(self.shape), list(self.offsets), self.start]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> SliceInfo:
        """Returns the slice that `to_plain` has described."""
        dtype, shape, offsets, start = plain
        return cls(DTYPES[dtype], tuple(shape), tuple(offsets), start)


def slices_metadata(offsets: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Returns the metadata by which torch's distributed checkpoint knows where each slice begins in its tensor."""
    places = {name: {_OFFSETS_KEY: list(begin)} for name, begin in offsets.items()}
    return {_SLICES_KEY: json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"}


def write_safetensors(
    path: Path,
    shapes: Mapping[str, Shape],
    tensors: Iterable[Tensor],
    *,
    dtype: torch.dtype,
    bools: Collection[str] = (),
    metadata: dict[str, str],
) -> tuple[int, str]:
    """Writes a new file, flushes it to disk, and returns its size in bytes and its SHA-256. Raises OSError.

    `tensors` come in the order of `shapes`, on the CPU; each is taken when its turn comes, and converted to `dtype`, or
    to a byte per value if its name is in `bools`.
    """
    dtypes = {name: torch.bool if name in bools else dtype for name in shapes}
    digest = hashlib.sha256()
    size = 0
    with naming(path), path.open("xb", buffering=0) as file:
        for chunk in _chunks(_header(shapes, dtypes, metadata), shapes, tensors, dtypes):
            digest.update(chunk)
            written = 0
            while written < len(chunk):
                written += file.write(chunk[written:])
            size += len(chunk)
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def read_header(path: Path, *, skip: Sequence[str] = ()) -> dict[str, SliceInfo]:
    """Returns the slices of a file by tensor name, after checking every number against the file's size.

    `skip`: patterns of names that are left out, whatever their type. Raises UserError, OSError.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _MOST_HEADER_BYTES):
            raise UserError(f"{path.name} is no safetensors file, or was cut short: it has no header")
        text = file.read(length)
    values_start = 8 + length
    try:
        header = json.loads(text)
        places = json.loads(header.pop("__metadata__", {}).get(_SLICES_KEY, "null"))
        slices = {
            name: _slice_of(name, entry, None if places is None else places[name][_OFFSETS_KEY], values_start)
            for name, entry in header.items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)
        }
        spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    except UnsupportedDtypeError as error:
        raise UnsupportedDtypeError(f"{path.name}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path.name} is no safetensors file: {type(error).__name__}: {error}") from None
    end = 0
    for first, last in spans:
        if first != end:
            raise UserError(f"{path.name} is no safetensors file: its values do not lie one after the other")
        end = last
    if end != size - values_start:
        raise UserError(
            f"{path.name} is no safetensors file, or was cut short: it has {size - values_start} bytes of values, "
            f"its header says {end}"
        )
    return slices


def bytes_of(tensor: Tensor) -> memoryview:
    """Returns the memory of a contiguous tensor on the CPU."""
    values: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(values)


def _header(shapes: Mapping[str, Shape], dtypes: Mapping[str, torch.dtype], metadata: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtypes[name].itemsize
        entries[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _chunks(
    header: bytes, shapes: Mapping[str, Shape], tensors: Iterable[Tensor], dtypes: Mapping[str, torch.dtype]
) -> Iterator[memoryview]:
    yield memoryview(header)
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)}, not {shape}"
        values = bytes_of(tensor.to(dtypes[name]).contiguous())
        for start in range(0, len(values), _CHUNK_BYTES):
            yield values[start : start + _CHUNK_BYTES]


def _slice_of(name: str, entry: Any, offsets: Any, values_start: int) -> SliceInfo:
    shape = _sizes(entry["shape"])
    begin = (0,) * len(shape) if offsets is None else _sizes(offsets)
    first, last = entry["data_offsets"]
    if len(shape) != len(begin):
        raise ValueError(f"{name}: a slice's shape and place have different dimensions")
    if set(entry) != {"dtype", "shape", "data_offsets"} or type(first) is not int or type(last) is not int:
        raise ValueError(f"{name}: an entry has other keys or values than the format's")
    if entry["dtype"] not in DTYPES:
        raise UnsupportedDtypeError(f"{name} is of type {entry['dtype']}; lehr reads {', '.join(FLOAT_DTYPES)}")
    dtype = DTYPES[entry["dtype"]]
    if last - first != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name}: a slice has more or fewer bytes than its shape")
    return SliceInfo(dtype, shape, begin, values_start + first)


def _sizes(values: Any) -> Shape:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("a shape or place is not a list of sizes")
    return tuple(values)
