"""Input files: the user's paths become a fixed list of files, which are opened whatever their compression."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from data.sources.zstd import ZSTD_ERRORS, open_zstd
from settings import UserError
from settings.base import expand_home

# The errors that a damaged or misnamed file raises while it is read.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, *ZSTD_ERRORS)
COMPRESSIONS = ("", ".gz", ".zst", ".bz2", ".xz")
_BUFFER_BYTES = 1 << 20
_TEXT_PER_BYTE = {".gz": 4, ".zst": 4, ".bz2": 5, ".xz": 5}  # an estimate for each compression


def with_compressions(*suffixes: str) -> tuple[str, ...]:
    """Return each suffix plain and with the suffix of every compression that `open_binary` reads."""
    return tuple(suffix + compression for suffix in suffixes for compression in COMPRESSIONS)


def find_input_files(paths: Sequence[str], suffixes: Sequence[str], *, key: str) -> list[Path]:
    """List the files of `paths`, which may be files, globs, or folders, whose files with one of the suffixes are taken.

    Of a folder, the files of all its subfolders are taken, also behind symbolic links, except hidden files and folders;
    upper and lower case in suffixes are equal. Files are sorted within each path, and no file is listed twice, however
    it is spelled. Raises UserError if a path matches nothing, so that a typing error does not become a smaller data
    set, and if a folder cannot be listed.
    """
    return _find(paths, suffixes, key)[0]


def count_unread(paths: Sequence[str], suffixes: Sequence[str], *, key: str) -> dict[str, int]:
    """Count the files in the folders of `paths` that `find_input_files` leaves out, by reason."""
    return dict(sorted(_find(paths, suffixes, key)[1].items()))


def _find(paths: Sequence[str], suffixes: Sequence[str], key: str) -> tuple[list[Path], Counter[str]]:
    found: dict[str, Path] = {}  # by their real paths
    unread: Counter[str] = Counter()
    for given in paths:
        if not given:
            raise UserError(f'{key} has an empty path; the current folder is "."')
        path = expand_home(given, key=key)
        if Path(path).is_file():
            matches = [Path(path)]
        elif Path(path).is_dir():
            matches = []
            for file in _walk(Path(path), key):
                if reason := _reason_unread(file, Path(path), suffixes):
                    unread[reason] += 1
                else:
                    matches.append(file)
            matches.sort()
            if not matches:
                raise UserError(f'{key} = "{path}": no file under this folder ends in {" or ".join(suffixes)}')
        elif glob.has_magic(path):
            spellings = [Path(match) for match in glob.glob(path, recursive=True) if Path(match).is_file()]
            spellings.sort(key=lambda file: len(file.parts), reverse=True)  # of a file in a loop, the shortest stays
            matches = sorted({os.path.realpath(file): file for file in spellings}.values())
            if not matches:
                raise UserError(f'{key} = "{path}" matches no file')
        else:
            raise UserError(f'{key} = "{path}" does not exist')
        for file in matches:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values()), unread


def _walk(folder: Path, key: str) -> Iterator[Path]:
    """Yield everything in a folder that is no folder, and of hidden folders only themselves.

    Symbolic links to folders come last and every folder once, so that loops end and a file keeps its real name.
    """
    waiting, links = [folder], list[Path]()
    visited: set[str] = set()
    while waiting or links:
        current = waiting.pop() if waiting else links.pop(0)
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        try:
            entries = sorted(current.iterdir())
        except OSError as error:
            raise UserError(f'{key} = "{folder}": {current} cannot be listed: {error.strerror}') from None
        for entry in entries:
            if not entry.is_dir() or entry.name.startswith("."):
                yield entry
            else:
                (links if entry.is_symlink() else waiting).append(entry)


def _reason_unread(file: Path, folder: Path, suffixes: Sequence[str]) -> str | None:
    """Return why a file of a folder is left out, or None if it is taken."""
    if file.name.startswith("."):
        return "hidden"
    if not file.name.lower().endswith(tuple(suffix.lower() for suffix in suffixes)):
        return f"end in {file.suffix}" if file.suffix else "have no suffix"
    return None if file.is_file() else "broken links or no regular files"


def printable(text: str) -> str:
    r"""Return a text with bytes of a file's name that are not UTF-8, and other half surrogates, spelled like \\xff."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()


def is_compressed(path: Path) -> bool:
    """Return whether `open_binary` decompresses the file, which can then only be read from its beginning."""
    return path.suffix.lower() in _TEXT_PER_BYTE


def text_bytes(path: Path) -> int:
    """Estimate how many bytes of text a file holds."""
    return path.stat().st_size * _TEXT_PER_BYTE.get(path.suffix.lower(), 1)


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, and decompress it if its suffix is one of COMPRESSIONS, in either case."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if suffix == ".zst":
        return io.BufferedReader(open_zstd(path), _BUFFER_BYTES)
    return path.open("rb", buffering=_BUFFER_BYTES)


def read_line(file: BinaryIO, max_bytes: int) -> tuple[bytes | None, int]:
    """Read a line, and return it with its length; a line longer than `max_bytes` is read past, and None is returned.

    At the end of the file the line is empty.
    """
    line = file.readline(max_bytes + 1)
    if len(line) <= max_bytes:
        return line, len(line)
    length = len(line)
    while not line.endswith(b"\n") and (line := file.readline(_BUFFER_BYTES)):
        length += len(line)
    return None, length
