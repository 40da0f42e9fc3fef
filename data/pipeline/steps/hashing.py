"""The hash of a document's text, which alone decides the document's split, so that it never moves between splits."""

from __future__ import annotations

import hashlib

_RANGE = 1 << 64
_SCRAMBLE = 0x9E3779B97F4A7C15  # odd, so that multiplication permutes the hashes


def text_hash(content: bytes) -> int:
    """Return the first 8 bytes of the SHA-256 of a text in UTF-8, as a big-endian number."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def held_out_limit(fraction: float) -> int:
    """Return the hash below which documents are held out."""
    return int(fraction * _RANGE)


def is_held_out(hash_: int, fraction: float) -> bool:
    """Return whether a document is held out: its hash lies in the first `fraction` of the range.

    A larger fraction holds out the same documents and more. Equal documents are in the same split.
    """
    return hash_ < held_out_limit(fraction)


def is_sampled(hash_: int, fraction: float) -> bool:
    """Return whether a document belongs to a sample of this fraction, which is independent of the held-out split."""
    return sample_key(hash_) < int(fraction * _RANGE)


def sample_key(hash_: int) -> int:
    """Return the place of a document in a random order, of which samples are the beginning."""
    return hash_ * _SCRAMBLE % _RANGE
