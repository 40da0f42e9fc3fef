"""Errors about a source, with its key in the config in front of the message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from settings import UserError


@contextmanager
def naming_source(key: str) -> Iterator[None]:
    """Put a source's key in the config in front of the message of a UserError or OSError, which becomes a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}.{error}") from None
    except OSError as error:
        raise UserError(f"{key}: {error}") from None
