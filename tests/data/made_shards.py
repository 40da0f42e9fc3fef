"""Writes small shards for tests with datatrove's own writer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datatrove.pipeline.tokens.tokenizer import TokenizedFile

Document = Sequence[int]
EOS = 0
TEXT_BYTES_PER_TOKEN = 3


def documents(rng: np.random.Generator, *, tokens: int, vocab_size: int = 1000, longest: int = 40) -> list[list[int]]:
    """Make random documents that end in EOS and hold `tokens` tokens together."""
    made: list[list[int]] = []
    while tokens:
        length = min(int(rng.integers(1, longest + 1)), tokens)
        made.append([*rng.integers(1, vocab_size, length - 1).tolist(), EOS])
        tokens -= length
    return made


def document_hashes(documents: Sequence[Document]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return a hash of each document, which stands for that of its text."""
    digests = (hashlib.sha256(str(list(document)).encode()).digest() for document in documents)
    return np.array([int.from_bytes(digest[:8], "big") for digest in digests], dtype="<u8")


def write_source(
    folder: Path,
    name: str,
    *,
    train: Sequence[Sequence[Document]],
    held_out: Sequence[Sequence[Document]] = (),
    token_bytes: int = 2,
    vocab_size: int = 1000,
    loss: Mapping[int, Sequence[Sequence[bool]]] | None = None,
    held_out_loss: Mapping[int, Sequence[Sequence[bool]]] | None = None,
    tokenizer: str = "a tokenizer",
    with_hashes: bool = False,
) -> None:
    """Write SHARDS/NAME with a list of documents per file; `loss` has the loss masks of some files' documents.

    With `with_hashes`, each shard of the training split has the hashes of its documents.
    """
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "tokenizer.json").write_text(tokenizer)
    splits = {}
    for split, files in (("train", train), ("held_out", held_out)):
        (folder / name / split).mkdir(parents=True)
        entries = []
        for number, file_documents in enumerate(files):
            masks = ((loss if split == "train" else held_out_loss) or {}).get(number)
            entry = _write_file(folder / name, f"{split}/{number:05d}.ds", file_documents, masks, token_bytes)
            if with_hashes and split == "train":
                path = folder / name / f"{split}/{number:05d}.ds.hashes"
                document_hashes(file_documents).tofile(path)
                entry["document_hashes_sha256"] = _sha256(path)
            entries.append(entry)
        tokens = sum(entry["tokens"] for entry in entries)
        splits[split] = {
            "documents": sum(len(file_documents) for file_documents in files),
            "tokens": tokens,
            "text_bytes": TEXT_BYTES_PER_TOKEN * tokens,
            "files": entries,
        }
    info = {
        "format": 1,
        "source": name,
        "licence": "CC0-1.0",
        "language": "en",
        "tokenizer": {
            "path": "tokenizer.json",
            "sha256": _sha256(folder / "tokenizer.json"),
            "vocab_size": vocab_size,
            "eos_id": EOS,
        },
        "token_bytes": token_bytes,
        "pipeline": {},
        "splits": splits,
    }
    (folder / name / "dataset.json").write_text(json.dumps(info))


def _write_file(
    folder: Path, path: str, documents: Sequence[Document], masks: Sequence[Sequence[bool]] | None, token_bytes: int
) -> dict[str, object]:
    writer = TokenizedFile(str(folder), path, save_loss_metadata=masks is not None, token_size=token_bytes)
    for number, document in enumerate(documents):
        writer.write(list(document), None if masks is None else np.array(masks[number], dtype=bool))
    writer.close()
    return {
        "path": path,
        "tokens": len(writer),
        "documents": len(documents),
        "sha256": _sha256(folder / path),
        "index_sha256": _sha256(folder / f"{path}.index"),
        "loss_sha256": None if masks is None else _sha256(folder / f"{path}.loss"),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
