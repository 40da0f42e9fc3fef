"""Paths in a config, made independent of the current folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from settings.base import Settings
from settings.errors import UserError

S = TypeVar("S", bound=Settings)


def with_absolute_paths(settings: S) -> S:
    """Returns the settings with every relative path joined to the current folder. Text that is a path stays text.

    Raises UserError if a path is no UTF-8.
    """
    return settings.model_copy(update={name: _absolute(value) for name, value in settings})


def recordable(path: Path) -> Path:
    """Returns the path. Raises UserError if it holds bytes that are no UTF-8: a config is text and cannot record it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"the path {path} is no UTF-8, so that no config can record it; rename it") from None
    return path


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return recordable(value.absolute())
    if isinstance(value, Settings):
        return with_absolute_paths(value)
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return {key: _absolute(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
