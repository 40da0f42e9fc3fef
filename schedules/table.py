"""A schedule from a file: one lr a step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from schedules.base import SCHEDULES, Floats, Schedule, ScheduleConfig
from settings import UserError, may_move
from settings.files import output_of_user, write_text


@SCHEDULES.register
class TableConfig(ScheduleConfig):
    """One lr a step, absolute, from a file: a JSON list, or text with one number a line."""

    name: Literal["table"] = "table"
    file: Path = Field(
        description="The file: a JSON list, or text with one number a line.",
        json_schema_extra=may_move("the lr of each step has the same hash elsewhere"),
    )

    def file_values(self) -> tuple[float, ...]:
        """Returns the values of the file. Raises UserError if it cannot be read or a value is no lr."""
        return _read_table(self.file)

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        """Builds the schedule; the peak plays no part. Raises UserError if the file holds too few values."""
        value_n = np.array(self.file_values())
        if value_n.size < total_steps:
            raise UserError(
                f"schedule.file = {self.file} holds {value_n.size} values, fewer than train.steps = {total_steps}; "
                "add values or lower train.steps"
            )
        return Schedule(total_steps, lambda ordinal_n: value_n[ordinal_n - 1])

    @classmethod
    def examples(cls, folder: Path) -> tuple[ScheduleConfig, ...]:
        """Returns a table of 2000 steps, with jumps and an lr that rises again."""
        write_table(1e-3 * (1 + np.arange(2000) % 7) / 7, folder / "lr.json")
        return (cls(file=folder / "lr.json"),)


def write_table(lr_n: Floats, path: Path) -> None:
    """Writes the lr of every step [n] as `schedule: {name: table, file: ...}` reads it, to the last bit.

    Raises UserError if the file cannot be written.
    """
    with output_of_user(path):
        write_text(path, json.dumps(lr_n.tolist()) + "\n")


def _read_table(path: Path) -> tuple[float, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"schedule.file = {path} cannot be read: {error}") from None
    try:
        plain = json.loads(text) if text.lstrip().startswith("[") else text.split()
        values = tuple(float(value) for value in plain)
    except (ValueError, TypeError) as error:
        raise UserError(f"schedule.file = {path} must hold one number a step: {error}") from None
    for line, value in enumerate(values):
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"schedule.file = {path}: lr {value} of step {line} must be finite and at least 0")
    return values
