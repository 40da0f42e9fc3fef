"""Files and folders that appear complete or not at all, JSON files, and messages for what the file system refuses."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from settings.errors import RunError, UserError

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
}


def write_text(path: Path, text: str) -> None:
    """Writes a file next to `path`, flushes it to disk and renames it to `path`."""
    with new_file(path) as staging, naming(path), staging.open("w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields the path of a staging file to write, which is flushed to disk and renamed to `path` at the end.

    After an error nothing is left of it. Raises OSError, also where `path` is a device or a pipe: the rename would
    replace it, /dev/null for the whole machine.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileExistsError(errno.EEXIST, "it is a device or a pipe, no file", str(path))
    staging = path.with_name(f".{path.name}.partial")
    try:
        yield staging
        _flush(staging)
        staging.replace(path)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)
    flush_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as `write_text` does; floats have all their digits, so that they read back equal."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *, missing: str | None = None, invalid: str | None = None) -> Any:
    """Returns the value that a JSON file holds.

    Raises UserError where the file cannot be read or is not JSON; where there is none, with the text `missing`, and
    where it is not JSON, with the text `invalid`.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if missing is not None and isinstance(error, FileNotFoundError):
            raise UserError(missing) from None
        if invalid is not None and not isinstance(error, OSError):
            raise UserError(invalid) from None
        raise UserError(f"{path} cannot be read: {error}") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a staging folder to fill, which is renamed to `path` at the end; after an error nothing is left of it.

    Raises UserError where `path` is a file or a folder that is not empty, and where the file system refuses.
    """
    staging = path.parent / f".{path.name}.partial"
    try:
        with output_of_user(path):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; give a new or empty folder")
            if path.is_dir() and any(path.iterdir()):
                raise UserError(f"{path} is not empty; give a new or empty folder")
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            yield staging
            flush_folder(staging)
            staging.rename(path)
            flush_folder(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """Yields a staging folder to fill, whose files replace those of their names in `folder` at the end.

    They are moved in the order in which they were written. After an error `folder` is as it was. Raises OSError.
    """
    is_new = not folder.exists()
    staging = folder / ".partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        for file in sorted(staging.iterdir(), key=lambda file: file.stat().st_mtime_ns):
            file.replace(folder / file.name)
        flush_folder(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it holds the files
                folder.rmdir()


@contextlib.contextmanager
def output_of_user(output: object) -> Iterator[None]:
    """Turns an OSError into a UserError: the file system refuses the file or folder `output` that a user asked for."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "give another path")
        raise UserError(f"{output} cannot be written: {error.strerror or error}; {remedy}") from None


def flush_folder(folder: Path) -> None:
    """Flushes a folder to disk, so that renames in it last through a power cut."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_folder(path: Path) -> bool:
    """Returns whether `path` is a folder; a path that no folder can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError of an open file, such as that of a full disk, the name of the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns an OSError into a RunError that names the action `doing` (such as "writing a checkpoint"), path and reason.

    Once the reason is gone, the same command goes on with the run.
    """
    try:
        yield
    except OSError as error:
        where = f" {error.filename}:" if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "see to it")
        raise RunError(
            f"{doing} failed:{where} {error.strerror or error}; {remedy}, then run the same command again"
        ) from error
