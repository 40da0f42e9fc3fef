"""Safetensors files as torch's distributed checkpoint reads them: slices of tensors, each with its place in the whole.

A file is an unsigned 64-bit length, a JSON header of that length, and the values. Where a slice begins in its tensor
stands in the header's metadata, under the key of torch's HuggingFaceStorageWriter. That writer first makes the whole
file in memory, three times over; here values go from where they lie to the disk, a piece at a time, hashed on the way.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from settings.files import naming
from train.safetensors_header import OFFSETS_KEY, SLICES_KEY

_NAMES = {torch.float32: "F32"}  # all that a checkpoint holds
_PIECE_BYTES = 8 * 2**20  # of one write: small enough that a step's own reads and writes get their turn


@dataclass(frozen=True)
class Piece:
    """A contiguous float32 tensor on the CPU, the part of a whole one that begins at `offsets`."""

    tensor: Tensor
    offsets: tuple[int, ...]


def write_safetensors(path: Path, pieces: Mapping[str, Piece]) -> tuple[int, str]:
    """Write a file, flush it to disk, and return its size in bytes and its SHA-256. Raises OSError."""
    header = _header(pieces)
    digest = hashlib.sha256()
    size = 0
    with naming(path), path.open("xb", buffering=0) as file:
        for piece in _bytes_of(header, pieces):
            digest.update(piece)
            written = 0
            while written < len(piece):
                written += file.write(piece[written:])
            size += len(piece)
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _header(pieces: Mapping[str, Piece]) -> bytes:
    entries: dict[str, Any] = {}
    end = 0
    for name, piece in pieces.items():
        start, end = end, end + piece.tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[piece.tensor.dtype],
            "shape": list(piece.tensor.shape),
            "data_offsets": [start, end],
        }
    places = {name: {OFFSETS_KEY: list(piece.offsets)} for name, piece in pieces.items()}
    metadata = {SLICES_KEY: json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"}
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def _bytes_of(header: bytes, pieces: Mapping[str, Piece]) -> Sequence[memoryview]:
    parts = [memoryview(header)]
    for piece in pieces.values():
        assert piece.tensor.is_contiguous()
        values = piece.tensor.reshape(-1).view(torch.uint8).numpy().data
        parts += [values[start : start + _PIECE_BYTES] for start in range(0, len(values), _PIECE_BYTES)]
    return parts
