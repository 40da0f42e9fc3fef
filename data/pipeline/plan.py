"""The plan of a build: how its input is divided into tasks, as a pure function of the config and the input.

The number of tasks decides the shards' bytes, so it never depends on the machine or the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from data.config import DataConfig
from data.pipeline.build_output import BuildOutput
from data.pipeline.source_errors import naming_source
from data.sources import InputPart
from settings import UserError

_MIN_TASK_BYTES = 4 * 2**20
_MAX_TASK_BYTES = 256 * 2**20
_TASKS = 64  # between these bounds


@dataclass(frozen=True)
class Task:
    """The input of one task: parts of one source, of which it reads up to `max_bytes` of text (0: all)."""

    source: str
    number: int  # within its source; names its shard files
    parts: tuple[InputPart, ...]
    max_bytes: int = 0

    @property
    def bytes(self) -> int:
        """The estimated bytes of text that the task reads."""
        total = sum(part.bytes for part in self.parts)
        return min(total, self.max_bytes) if self.max_bytes else total


@dataclass(frozen=True)
class Plan:
    """All tasks of a build; sources are in the order of the config."""

    tasks: tuple[Task, ...]

    @property
    def bytes(self) -> int:
        """The estimated bytes of text that the build reads."""
        return sum(task.bytes for task in self.tasks)

    def tasks_of(self, source: str) -> list[int]:
        """Return the ranks of a source's tasks."""
        return [rank for rank, task in enumerate(self.tasks) if task.source == source]


def make_plan(config: DataConfig) -> Plan:
    """List the input and divide it into tasks. Raises UserError if a path is wrong or there is no source."""
    if not config.sources:
        raise UserError("data.sources is empty: name at least one source to build shards from")
    total, output = 0, BuildOutput()
    for name, source in config.sources.items():
        with naming_source(f"data.sources.{name}"):
            size = sum(part.bytes for part in source.parts(_MAX_TASK_BYTES) if part.path not in output)
        total += min(size, source.max_bytes) if source.max_bytes else size
    task_bytes = config.task_bytes or min(max(total // _TASKS, _MIN_TASK_BYTES), _MAX_TASK_BYTES)
    tasks: list[Task] = []
    for name, source in config.sources.items():
        with naming_source(f"data.sources.{name}"):
            grouped = _group((part for part in source.parts(task_bytes) if part.path not in output), task_bytes)
            own = [Task(name, number, parts) for number, parts in enumerate(grouped)]
        size = sum(task.bytes for task in own)
        if 0 < source.max_bytes < size:  # every task takes the same share, so that all parts of the input are read
            own = [replace(task, max_bytes=max(1, source.max_bytes * task.bytes // size)) for task in own]
        tasks += own
    return Plan(tuple(tasks))


def _group(parts: Iterable[InputPart], task_bytes: int) -> Iterable[tuple[InputPart, ...]]:
    """Group neighbouring parts to about `task_bytes`: at least one group, and at least one part in each."""
    group: list[InputPart] = []
    size = 0
    for part in parts:
        if group and size + part.bytes / 2 > task_bytes:
            yield tuple(group)
            group, size = [], 0
        group.append(part)
        size += part.bytes
    yield tuple(group)
