"""Shards of random tokens, for benchmarks that need only their size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np


def write_random_shards(folder: Path, *, tokens: int, document_tokens: int, vocab_size: int) -> Path:
    """Writes a source named `random` of one file, and returns the file.

    The tokens are uniform over 1 to vocab_size - 1; document lengths are exponentially distributed, with a mean of
    `document_tokens`.
    """
    rng = np.random.default_rng(0)
    lengths = 1 + rng.exponential(document_tokens, tokens // document_tokens * 2).astype(np.int64)
    ends = np.cumsum(lengths)
    ends = np.append(ends[ends < tokens], tokens).astype("<u8")
    shard = folder / "random/train/00000.ds"
    shard.parent.mkdir(parents=True)
    with shard.open("wb") as file:
        for start in range(0, tokens, 5_000_000):
            rng.integers(1, vocab_size, min(5_000_000, tokens - start), dtype=np.uint16).tofile(file)
    ends.tofile(f"{shard}.index")
    (folder / "tokenizer.json").write_text("none")
    file_info = {"path": "train/00000.ds", "tokens": tokens, "documents": len(ends), "sha256": "", "index_sha256": ""}
    split = {"documents": len(ends), "tokens": tokens, "text_bytes": 4 * tokens, "files": [file_info]}
    tokenizer = {"path": "tokenizer.json", "sha256": hashlib.sha256(b"none").hexdigest(), "vocab_size": vocab_size}
    info = {
        "source": "random",
        "licence": "none",
        "language": "und",
        "tokenizer": {**tokenizer, "eos_id": 0},
        "token_bytes": 2,
        "pipeline": {},
        "splits": {"train": split},
    }
    (folder / "random/dataset.json").write_text(json.dumps(info))
    return shard
