"""The tokenizer of a run's shards as the files that transformers' AutoTokenizer reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from data.config import DataConfig
from data.shards.index import open_shards
from data.tokenizer import load_tokenizer


@dataclass(frozen=True)
class TokenizerFiles:
    """What to write, and the number of the token after each document."""

    files: dict[str, bytes]
    end: int


def tokenizer_files(config: DataConfig, *, longest: int) -> TokenizerFiles:
    """tokenizer.json as it is, and what says how to read it. `longest`: tokens that the model was trained on at once.

    Raises UserError where the shards are gone or their tokenizer is not the one they were built with.
    """
    shards = open_shards(config)
    path, eos_id = shards.tokenizer_file(), shards.tokenizer.eos_id
    end = load_tokenizer(path).id_to_token(eos_id)
    tokens = {"bos_token": end, "eos_token": end}
    said: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokens,
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
    }
    files = {
        "tokenizer.json": path.read_bytes(),
        "tokenizer_config.json": _json(said),
        "special_tokens_map.json": _json(tokens),
    }
    return TokenizerFiles(files, eos_id)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
