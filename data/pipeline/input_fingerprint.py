"""The fingerprint of a build's input, by which a build notices that a file is not the one it was.

A file up to 1 MiB is known by its content. A larger one is known by its size, three samples and its modification time:
an edit between the samples is unseen if it keeps the size and sets the time back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from data.config import DataConfig
from data.pipeline.build_output import BuildOutput
from data.pipeline.source_errors import naming_source
from data.sources.files import printable
from settings import UserError

_SAMPLE_BYTES = 4096
_MAX_BYTES_READ_WHOLE = 2**20


def fingerprint_input(config: DataConfig, log: Callable[[str], None] = lambda message: None) -> dict[str, str]:
    """Return each input file's fingerprint, by path.

    Files that builds wrote are no input; `log` receives a line about them. Raises UserError if a source has no other
    files, or if an input file is missing or cannot be read.
    """
    fingerprints: dict[str, str] = {}
    output = BuildOutput()
    for key, source in config.input_sources().items():
        with naming_source(key):
            files = source.files()
        written = [file for file in files if file in output]
        if written and len(written) == len(files):
            raise UserError(
                f"{key}: every file of it, such as {printable(str(written[0]))}, was written by "
                "`lehr data build`; name the files of text"
            )
        if written:
            count = (
                "1 file of earlier builds is" if len(written) == 1 else f"{len(written):,} files of earlier builds are"
            )
            log(f"{key}: {count} not read, such as {printable(str(written[0]))}")
        with naming_source(key):
            fingerprints |= {printable(str(file)): _fingerprint(file) for file in files if file not in output}
    for file in config.select.selector.files() if config.select else ():
        with naming_source("data.select.selector"):
            fingerprints[printable(str(file))] = _fingerprint(file)
    return fingerprints


def changed_files(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the files whose fingerprints differ, also those that only one side has.

    Earlier versions recorded the size and the samples only; such a fingerprint is compared as far as it goes.
    """
    return [file for file in {**before, **now} if not _is_same(before.get(file, ""), now.get(file, ""))]


def check_unchanged(key: str, files: Iterable[Path], inputs: dict[str, str]) -> None:
    """Raise UserError if a file of a source no longer has its fingerprint in `inputs`, taken when the build began.

    `key` is the source's in the config.
    """
    for file in files:
        try:
            unchanged = _fingerprint(file) == inputs[printable(str(file))]
        except OSError:
            unchanged = False
        if not unchanged:
            raise UserError(
                f"{key}: {printable(str(file))} changed while the build read it: its size, content or "
                "modification time is another than when the build began; run the build again when nothing writes to it"
            )


def _is_same(before: str, now: str) -> bool:
    return now == before or (before.count(":") == 1 and now.startswith(f"{before}:"))


def _fingerprint(file: Path) -> str:
    """Return size, hash of samples, and hash of the content or modification time, with colons between them."""
    stat = file.stat()
    with file.open("rb") as stream:
        samples = _sampled_hash(stream, stat.st_size)
        if stat.st_size > _MAX_BYTES_READ_WHOLE:
            return f"{stat.st_size}:{samples}:modified {stat.st_mtime_ns}"
        stream.seek(0)
        content = hashlib.blake2b(stream.read(), digest_size=16).hexdigest()
    return f"{stat.st_size}:{samples}:{content}"


def _sampled_hash(stream: BinaryIO, size: int) -> str:
    """Return a hash of the beginning, the middle and the end."""
    digest = hashlib.blake2b(digest_size=8)
    for offset in sorted({0, size // 2, max(size - _SAMPLE_BYTES, 0)}):
        stream.seek(offset)
        digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()
