"""What a build will read, and how it is cut into tasks: a pure function of the config and the input.

The number of tasks never depends on the machine or the number of workers, since it decides the shards' bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from data.config import DataConfig
from data.sources import Piece
from settings import UserError

_LEAST_TASK_BYTES = 4 * 2**20
_MOST_TASK_BYTES = 256 * 2**20
_TASKS_BETWEEN = 64  # where neither bound holds
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Task:
    """What one task reads: pieces of one source, and no more once it has `max_bytes` of text (0: all of it)."""

    source: str
    number: int  # within its source, and the name of its shard files
    pieces: tuple[Piece, ...]
    max_bytes: int = 0

    @property
    def bytes(self) -> int:
        """About how much text it reads."""
        total = sum(piece.bytes for piece in self.pieces)
        return min(total, self.max_bytes) if self.max_bytes else total


@dataclass(frozen=True)
class Plan:
    """All tasks, sources in the order of the config."""

    tasks: tuple[Task, ...]

    @property
    def bytes(self) -> int:
        """About how much text the build reads."""
        return sum(task.bytes for task in self.tasks)

    def tasks_of(self, source: str) -> list[int]:
        """The ranks of a source's tasks."""
        return [rank for rank, task in enumerate(self.tasks) if task.source == source]


def make_plan(config: DataConfig) -> Plan:
    """List the input and cut it. Raises UserError where a path is wrong or there is nothing to read."""
    if not config.sources:
        raise UserError("data.sources is empty: name at least one source to build shards from")
    total = 0
    for name, source in config.sources.items():
        with _naming(name):
            size = sum(piece.bytes for piece in source.pieces(_MOST_TASK_BYTES))
        total += min(size, source.max_bytes) if source.max_bytes else size
    task_bytes = config.task_bytes or min(max(total // _TASKS_BETWEEN, _LEAST_TASK_BYTES), _MOST_TASK_BYTES)
    tasks: list[Task] = []
    for name, source in config.sources.items():
        with _naming(name):
            own = [Task(name, *numbered) for numbered in enumerate(_groups(source.pieces(task_bytes), task_bytes))]
        size = sum(task.bytes for task in own)
        if 0 < source.max_bytes < size:  # the same share of every task, so that all parts of the input are seen
            own = [replace(task, max_bytes=max(1, source.max_bytes * task.bytes // size)) for task in own]
        tasks += own
    return Plan(tuple(tasks))


def fingerprint(config: DataConfig) -> dict[str, str]:
    """For each input file its size and a hash of samples of it: enough to notice that an input was replaced."""
    prints: dict[str, str] = {}
    for name, source in config.sources.items():
        with _naming(name):
            files = source.files()
        for file in files:
            prints[str(file)] = _sampled_hash(file)
    return prints


def _sampled_hash(file: Path) -> str:
    """Size, and a hash of the beginning, the middle and the end."""
    size = file.stat().st_size
    digest = hashlib.blake2b(digest_size=8)
    with file.open("rb") as stream:
        for offset in sorted({0, size // 2, max(size - _SAMPLE_BYTES, 0)}):
            stream.seek(offset)
            digest.update(stream.read(_SAMPLE_BYTES))
    return f"{size}:{digest.hexdigest()}"


def _groups(pieces: Iterable[Piece], task_bytes: int) -> Iterable[tuple[Piece, ...]]:
    """Neighbouring pieces together until they make a task: at least one group, at least one piece in each."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and size + piece.bytes / 2 > task_bytes:
            yield tuple(group)
            group, size = [], 0
        group.append(piece)
        size += piece.bytes
    yield tuple(group)


class _naming:  # noqa: N801  # reads as a verb: with _naming(source)
    """Puts the source's key in front of the message of a mistake in it."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError):
            raise UserError(f"data.sources.{self._source}.{error}") from None
        if isinstance(error, OSError):
            raise UserError(f"data.sources.{self._source}: {error}") from None
