"""Writes the tokenizer of a run's shards as the files that transformers' AutoTokenizer reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from data.config import DataConfig
from data.shards.index import open_shards
from data.tokenizer import load_tokenizer


@dataclass(frozen=True)
class TokenizerFiles:
    """The files to write, and the id of the token that ends a document."""

    files: dict[str, bytes]
    end: int


def tokenizer_files(config: DataConfig, *, longest: int) -> TokenizerFiles:
    """Returns a copy of tokenizer.json, and the files that configure it. `longest`: the sequence length in training.

    Raises UserError if the shards are gone or their tokenizer is not the one that they were built with.
    """
    shards = open_shards(config)
    path, eos_id = shards.tokenizer_file(), shards.tokenizer.eos_id
    end = load_tokenizer(path).id_to_token(eos_id)
    tokens = {"bos_token": end, "eos_token": end}
    tokenizer_config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokens,
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
    }
    files = {
        "tokenizer.json": path.read_bytes(),
        "tokenizer_config.json": _json(tokenizer_config),
        "special_tokens_map.json": _json(tokens),
    }
    return TokenizerFiles(files, eos_id)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
