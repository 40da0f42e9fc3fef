"""The streams of shards: many files without file descriptors, and files that nobody may write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source

from data.config import DataConfig
from data.shards.index import open_shards
from data.shards.stream import TokenStream


@pytest.mark.parametrize("token_bytes", [2, 4])
def test_open_streams_hold_no_file_descriptors(tmp_path: Path, token_bytes: int) -> None:
    rng = np.random.default_rng(0)
    files = [documents(rng, tokens=20) for _ in range(60)]
    masks = {0: [[True] * len(document) for document in files[0]]}
    write_source(tmp_path, "a", train=files, loss=masks, token_bytes=token_bytes)
    for path in (tmp_path / "a" / "train").iterdir():
        path.chmod(0o444)
    before = set(os.listdir("/proc/self/fd"))
    stream = open_shards(DataConfig(shards=tmp_path)).stream("a", "train")
    assert set(os.listdir("/proc/self/fd")) == before
    everything = [token for file in files for document in file for token in document]
    assert stream.read(np.array([0]), stream.tokens)[0].tolist() == everything
    assert stream.read(np.array([0]), 7).dtype == np.dtype(f"<u{token_bytes}")
    assert all(not array.flags.writeable for array in mapped_arrays(stream))


def mapped_arrays(stream: TokenStream) -> list[np.ndarray]:
    return [array for arrays in (stream._tokens, stream._ends, stream._loss) for array in arrays if array is not None]
