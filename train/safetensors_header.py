"""The header of a safetensors file of a checkpoint, read with suspicion: which slices of which tensors it holds."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings import UserError

SLICES_KEY, OFFSETS_KEY = "DCP_SHARDING_INFO", "saved_offsets"  # of torch's HuggingFaceStorageWriter
_BYTES = {"F32": 4}  # an element; a checkpoint holds no other
_MOST_HEADER_BYTES = 100 * 2**20  # the format's own limit


@dataclass(frozen=True)
class SliceInfo:
    """Where a slice of a file lies in its tensor."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, SliceInfo]:
    """The slices of a file, every number checked against the file's size. Raises UserError, OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _MOST_HEADER_BYTES):
            raise UserError(f"{path.name} is no safetensors file: it has no header")
        text = file.read(length)
    try:
        header = json.loads(text)
        places = json.loads(header.pop("__metadata__")[SLICES_KEY])
        slices = {name: _slice_of(entry, places[name]) for name, entry in header.items()}
        spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path.name} is no safetensors file of a checkpoint: {type(error).__name__}: {error}"
        ) from None
    end = 0
    for first, last in spans:
        if first != end:
            raise UserError(f"{path.name} is no safetensors file: its values do not lie one after the other")
        end = last
    if end != size - 8 - length:
        raise UserError(f"{path.name} is no safetensors file: it has {size - 8 - length} bytes of values, not {end}")
    return slices


def _slice_of(entry: Any, place: Any) -> SliceInfo:
    shape, offsets = _sizes(entry["shape"]), _sizes(place[OFFSETS_KEY])
    first, last = entry["data_offsets"]
    if len(shape) != len(offsets):
        raise ValueError("a slice's shape and place have different dimensions")
    if set(entry) != {"dtype", "shape", "data_offsets"} or type(first) is not int or type(last) is not int:
        raise ValueError("an entry has other keys or values than the format's")
    if last - first != _BYTES[entry["dtype"]] * math.prod(shape):
        raise ValueError("a slice has more or fewer bytes than its shape")
    return SliceInfo(offsets, shape)


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("a shape or place is not a list of sizes")
    return tuple(values)
