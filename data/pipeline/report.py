"""The report of a finished build: `build.json` beside the shards, and the lines for the console."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data.shards.dataset_json import Split
from settings import Settings, UserError, parse
from settings.data_sizes import format_size
from settings.differences import ABSENT, Difference, differing_sections, show

BUILD_FILE = "build.json"


class BadFile(Settings):
    """A file that could not be read to its end: its size, and why."""

    bytes: int
    detail: str


class SourceReport(Settings):
    """The counts of a source: documents read, dropped by reason (data/drop_reasons.py), and kept."""

    read: int
    read_bytes: int
    bad: dict[str, int]
    bad_files: dict[str, BadFile] = Field({}, description="Files not read to their end, by path.")
    filtered: dict[str, int]
    duplicates: dict[str, int]
    not_selected: dict[str, int] = Field({}, description="Documents that left the pool or were not chosen from it.")
    documents: dict[Split, int]
    tokens: dict[Split, int]

    @property
    def is_empty(self) -> bool:
        """Whether no document is left to train on or to evaluate with."""
        return not any(self.documents.values())

    def line(self, name: str) -> str:
        """Format the report as one line for the console."""
        parts = ["left out, no document stays"] if self.is_empty else []
        parts.append(f"{self.read:,} documents read ({format_size(self.read_bytes)})")
        dropped = {"bad": self.bad, "filtered": self.filtered, "duplicate": self.duplicates}
        for kind, counts in {**dropped, "not selected": self.not_selected}.items():
            if sum(counts.values()):
                largest = sorted(((n, reason) for reason, n in counts.items() if n), reverse=True)
                details = ", ".join(f"{reason} {n:,}" for n, reason in largest[:4])
                details += ", ..." if len(largest) > 4 else ""
                parts.append(f"{sum(counts.values()):,} {kind} ({details})")
        if self.bad_files:
            size = sum(file.bytes for file in self.bad_files.values())
            names = ", ".join(list(self.bad_files)[:3]) + (", ..." if len(self.bad_files) > 3 else "")
            one = len(self.bad_files) == 1
            files = "1 file" if one else f"{len(self.bad_files):,} files"
            parts.append(f"{files} of {size:,} bytes not read to {'its' if one else 'their'} end ({names})")
        labels: dict[Split, str] = {"train": "to train on", "held_out": "held out"}
        for split, label in labels.items() if not self.is_empty else ():
            parts.append(f"{self.documents[split]:,} {label} ({self.tokens[split]:,} tokens)")
        return f"{name}: " + "; ".join(parts)


class BuildFile(Settings):
    """The content of SHARDS/build.json, which exists only in finished shards."""

    format: Literal[1] = 1
    recipe: dict[str, Any]
    inputs: dict[str, str]  # the fingerprint of each input file
    sources: dict[str, SourceReport]


def read_build_file(shards: Path) -> BuildFile | None:
    """Read the record of the build that made this folder, or return None if there is none.

    Raises UserError if the record cannot be read, or if a parent of the folder is a file.
    """
    path = shards / BUILD_FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        above = next(parent for parent in (shards, *shards.parents) if parent.exists())
        raise UserError(f"data.shards = {shards}: {above} is not a folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return parse(BuildFile, plain, source=str(path))


def differences(old: object, new: object) -> list[str]:
    """Returns where two recipes differ, as `data.KEY: was OLD, now NEW`; a list counts as one value."""
    return [_line(key, pair) for key, pair in differing_sections(old, new, "data").items()]


def _line(key: str, pair: Difference) -> str:
    if pair.old is ABSENT:
        return f"{key}: not there then, now {_short(pair.new)}"
    return f"{key}: was {_short(pair.old)}, now {'not there' if pair.new is ABSENT else _short(pair.new)}"


def _short(value: Any) -> str:
    text = show(value)
    return text if len(text) <= 80 else text[:79] + "…"
