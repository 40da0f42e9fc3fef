"""The lines of optimizer_quality.jsonl, and the figures that are read off them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict


class Result(TypedDict):
    """One finished run. `held_out` has the losses after `tokens`; both end early if the run diverged."""

    run: str
    study: str  # with its variant, since not all runs of a method are points of its search
    lr: float
    seed: int
    length: float
    config: str  # hash of the settings that decide the numbers
    commit: str | None
    cpu_seconds: float
    diverged: bool
    tokens: list[int]
    held_out: list[float]
    fire_rate: float | None  # of AdamP: the share of steps in which a tensor was projected, mean over the tensors


def read_results(path: Path) -> list[Result]:
    """Reads all lines. A last line that was cut off is ignored."""
    lines = path.read_text().splitlines() if path.exists() else []
    results: list[Result] = []
    for number, line in enumerate(lines):
        try:
            results.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1:
                raise
    return results


def add_result(path: Path, result: Result) -> None:
    """Appends a line in one write. A last line that was cut off is removed first."""
    text = path.read_bytes() if path.exists() else b""
    with path.open("ab") as file:
        if text and not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
        file.write(json.dumps(result).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def of_study(results: Sequence[Result], study: str, *, length: float = 1.0) -> list[Result]:
    """Returns the runs of a study that have this length."""
    return [result for result in results if result["study"] == study and result["length"] == length]


def end_of(result: Result) -> float:
    """Returns the last held-out loss, infinite if the run diverged."""
    return math.inf if result["diverged"] else result["held_out"][-1]


def final_loss(results: Sequence[Result], study: str, *, lr: float, seed: int) -> float | None:
    """Returns the last held-out loss of one run, None if it is missing."""
    found = [result for result in of_study(results, study) if (result["lr"], result["seed"]) == (lr, seed)]
    return end_of(found[-1]) if found else None


def best_lr(results: Sequence[Result], study: str, *, seed: int = 1) -> float:
    """Returns the lr of the least final loss in the search, which uses one seed."""
    grid = [result for result in of_study(results, study) if result["seed"] == seed]
    return min(grid, key=end_of)["lr"]


def tokens_to(result: Result, loss: float) -> float | None:
    """Returns the training tokens at which the held-out loss first reaches `loss`, None if it never does.

    The loss between two evaluations is interpolated linearly.
    """
    before: tuple[int, float] | None = None
    for tokens, here in zip(result["tokens"], result["held_out"], strict=True):
        if here <= loss:
            if before is None:
                return float(tokens)
            return before[0] + (tokens - before[0]) * (before[1] - loss) / (before[1] - here)
        before = tokens, here
    return None
