"""The fingerprint of a build's input: a size and a hash of samples for each file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data.config import DataConfig
from data.pipeline.source_errors import naming_source
from data.sources.files import printable

_SAMPLE_BYTES = 4096


def fingerprint_input(config: DataConfig) -> dict[str, str]:
    """Return each input file's size and sampled hash, by path: enough to notice that an input was replaced.

    Raises UserError if an input file is missing or cannot be read.
    """
    fingerprints: dict[str, str] = {}
    for name, source in config.sources.items():
        with naming_source(name):
            for file in source.files():
                fingerprints[printable(str(file))] = _sampled_hash(file)
    return fingerprints


def _sampled_hash(file: Path) -> str:
    """Return the size, and a hash of the beginning, the middle and the end."""
    size = file.stat().st_size
    digest = hashlib.blake2b(digest_size=8)
    with file.open("rb") as stream:
        for offset in sorted({0, size // 2, max(size - _SAMPLE_BYTES, 0)}):
            stream.seek(offset)
            digest.update(stream.read(_SAMPLE_BYTES))
    return f"{size}:{digest.hexdigest()}"
