"""The held-out loss: its key in metrics.jsonl, and which of its values may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HELD_OUT_LOSS = "held_out/loss"


def comparison_key(sequences: Mapping[str, Any]) -> str:
    """Returns a text that is equal for two held-out losses if they may be compared: they are of the same sequences.

    `sequences` is their identity (`HeldOutLoader.identity`), or empty if a checkpoint does not record it.
    """
    return json.dumps(sequences, sort_keys=True)


def are_comparable(sequences: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Returns whether held-out losses on these sequences may be compared with those on the others."""
    return comparison_key(sequences) == comparison_key(others)


def source_loss_key(source: str) -> str:
    """Returns the key of a source's held-out loss in metrics.jsonl."""
    return f"held_out/{source}/loss"


def are_comparable_of_source(source: str, sequences: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Returns whether the held-out losses of one source may be compared: its sequences are the same in both."""

    def key(identity: Mapping[str, Any]) -> object:
        return {**identity, "sources": identity.get("sources", {}).get(source)}

    return source in sequences.get("sources", {}) and key(sequences) == key(others)
