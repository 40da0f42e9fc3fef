"""The records of a branch: run.json of the new run says where it began, and branches.jsonl of the other run names it.

branches.jsonl only grows, by one line for each branch, which is one write. So it needs no lease of its run, which may
be in training, and branches may begin at the same time.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from settings import Settings
from settings.files import explained, write_text
from settings.jsonl import read_json_lines
from train.run_folder.folder import RunFolder


class Origin(Settings):
    """The checkpoint of another run from which a run has begun."""

    run: str = Field(description="the folder of that run, absolute")
    step: int = Field(ge=0)
    tokens: int = Field(0, ge=0, description="tokens that the run had trained on by then")
    optimizer: Literal["keep", "reset"] = "keep"
    same_rows: bool = Field(True, description="whether seed, seq_length and batch are those of that run")
    choices: dict[str, Any] = Field({}, description="how that run computed (`recorded_choices`); `auto` keeps it")

    @property
    def path(self) -> Path:
        """The folder of that run."""
        return Path(self.run)


def add_branch(origin: Origin, branch: Path) -> None:
    """Adds a branch to the record of the run that it began from, unless it is there already. Raises OSError."""
    parent = RunFolder(origin.path)
    name = str(branch.absolute())
    if any(line.get("run") == name and line["step"] == origin.step for line in read_branches(parent)):
        return
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"run": name, "step": origin.step, "date": date}) + "\n"
    with parent.branches.open("a", encoding="utf-8") as file:
        file.write(line)


def read_branches(parent: RunFolder) -> list[Mapping[str, Any]]:
    """Returns the recorded branches of a run: run, step and date of each, in order. Raises OSError."""
    try:
        return [values for _, values in read_json_lines(parent.branches)]
    except FileNotFoundError:
        return []


def copy_metrics(origin: Origin, folder: RunFolder, *, evaluated: bool) -> None:
    """Begins metrics.jsonl with the lines of the other run up to the branch. Does nothing if the file is there.

    So forecasts, fits and plots of a branch have its whole past, wherever the other run may be. `evaluated`: the
    checkpoint knows the held-out loss of its step.
    """
    source = RunFolder(origin.path).metrics
    if folder.metrics.exists() or not source.exists():
        return
    with explained("copying the metrics of the run that the branch begins from"):
        kept = [
            line
            for line, values in read_json_lines(source)
            if values["step"] <= origin.step and (evaluated or values["step"] < origin.step or "loss" in values)
        ]
        write_text(folder.metrics, "".join(f"{line}\n" for line in kept))
