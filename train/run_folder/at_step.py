"""A run folder and a step of it in one text: FOLDER, FOLDER@STEP or FOLDER@latest."""

from __future__ import annotations

import re
from pathlib import Path

_AT_STEP = re.compile(r"(.+)@([0-9]{1,100}|latest)", re.DOTALL)


def split_step(text: str) -> tuple[str, int | None]:
    """Returns the folder and the step; None is the newest checkpoint.

    A text that ends in no step is the folder of a run, whose name may hold an @.
    """
    match = _AT_STEP.fullmatch(text)
    if match is None:
        return text, None
    return match[1], None if match[2] == "latest" else int(match[2])


def no_run_folder(path: Path) -> str:
    """Returns the message on a folder without a config, which may be meant as FOLDER@STEP with a step that is none."""
    advice = ""
    if "@" in path.name:
        advice = "; to name a step, write FOLDER@STEP, where STEP must be a whole number or `latest`"
    return f"{path} is no run folder: it has no config.yaml{advice}"
