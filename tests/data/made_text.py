"""Small texts and configs for tests of builds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from data.config import DataConfig
from settings.files import file_sha256

WORDS = ["the", "kiln", "and", "that", "fire", "have", "been", "with", "glass", "long", "night", "to", "be", "of"]


def make_text(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def make_config(folder: Path, shards: str = "shards", **more: Any) -> DataConfig:
    plain: dict[str, Any] = {
        "shards": str(folder / shards),
        "tokenizer": {"vocab_size": 300},
        "deduplicate": {"minhash": True},
        "held_out_fraction": 0.1,
        "workers": 2,
        "task_bytes": 40_000,
        "sources": {"made": {"name": "jsonl", "paths": [str(folder / "made.jsonl")]}},
    }
    return DataConfig.model_validate({**plain, **more})


def hashes(shards: Path) -> dict[str, str]:
    return {str(path.relative_to(shards)): file_sha256(path) for path in sorted(shards.rglob("*")) if path.is_file()}


def config_file(folder: Path, config: DataConfig) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps({"data": config.to_plain()}))
    return path
