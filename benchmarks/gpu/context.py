"""The context that every phase receives: where it writes, its form of shapes, and how its lines in the record begin."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.sizes import SEQ_LENGTH, SIZES, TINY_SEQ_LENGTH, TINY_SIZE, Size

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]
_SECONDS_TO_RECORD = 3.0


@dataclass(frozen=True)
class Context:
    """The inputs of a phase, as values that can be sent to its process."""

    record: Path
    folder: Path  # for runs and logs; it is removed at the end
    shards: Path
    tiny: bool  # the form for a CPU: every shape is small
    origin: Row  # date, card, torch, revision: the beginning of every line
    end: float = math.inf  # when the phase is killed, by time.monotonic(), which all processes share

    def size(self, name: str) -> Size:
        """Returns the model of this name; in the tiny form one model stands for all."""
        return TINY_SIZE if self.tiny else SIZES[name]

    @property
    def seq_length(self) -> int:
        return TINY_SEQ_LENGTH if self.tiny else SEQ_LENGTH

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    @property
    def seconds_left(self) -> float:
        """Returns how long the phase may still wait for other processes, so that it can record how they end."""
        return self.end - _SECONDS_TO_RECORD - time.monotonic()

    def append(self, phase: str, row: Row) -> None:
        """Appends a line to the record."""
        line = json.dumps({**self.origin, "phase": phase, **row})
        with self.record.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def to_json(self) -> str:
        paths = {name: str(getattr(self, name)) for name in ("record", "folder", "shards")}
        return json.dumps({**paths, "tiny": self.tiny, "origin": self.origin, "end": self.end})

    @classmethod
    def from_json(cls, text: str) -> Context:
        values = json.loads(text)
        return cls(**values | {name: Path(values[name]) for name in ("record", "folder", "shards")})


def read_record(path: Path) -> list[Row]:
    """Returns the lines of a record; a line that was cut off is left out. A record that does not exist has none."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
