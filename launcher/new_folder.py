"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from settings import UserError
from settings.files import flush_folder


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder aside to be filled, which takes the name `path` at the end; after an error nothing is left of it.

    Raises UserError where `path` is a file or a folder with something in it, or where the disk refuses.
    """
    aside = path.parent / f".{path.name}.partial"
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; give a new or empty folder")
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"{path} is not empty; give a new or empty folder")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        flush_folder(aside)
        aside.rename(path)
        flush_folder(path.parent)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}; nothing was written to {path}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
