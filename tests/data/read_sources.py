"""Reads all documents of a source, for tests."""

from __future__ import annotations

from data.sources import BadDocument, RawDocument, SourceConfig


def read(source: SourceConfig, part_bytes: int = 1 << 40) -> list[RawDocument | BadDocument]:
    return [item for part in source.parts(part_bytes) for item in source.read(part)]


def texts(source: SourceConfig, part_bytes: int = 1 << 40) -> list[str]:
    items = read(source, part_bytes)
    bad = [item for item in items if isinstance(item, BadDocument)]
    assert not bad, bad[:3]
    return [item.text for item in items if isinstance(item, RawDocument)]
