"""The comparison of a run that had faults with the same run without a fault: of every step, and of the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

EXACT = ("tokens", "lr", "batch_hash", "skipped_steps")


def lines(run: Path) -> list[dict[str, Any]]:
    """Reads the lines of metrics.jsonl as they are."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads every tensor of the files of the last checkpoint."""
    folder = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    return {
        f"{file.name} {key}": value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()
    }


def compare(unbroken: Path, broken: Path, *, exact: bool) -> float:
    """Returns the largest relative difference of a loss. Raises AssertionError if the runs are not the same."""
    steps = [[line for line in lines(run) if "loss" in line] for run in (unbroken, broken)]
    evaluations = [[line for line in lines(run) if "held_out/loss" in line] for run in (unbroken, broken)]
    for kind, (there, here) in (("step", steps), ("evaluation", evaluations)):
        numbers = [line["step"] for line in here]
        assert numbers == [line["step"] for line in there], f"the {kind}s of the broken run: {numbers}"
    assert [line["step"] for line in steps[0]] == list(range(1, len(steps[0]) + 1))
    assert len({line["batch_hash"] for line in steps[0]}) == len(steps[0])
    worst = 0.0
    for there, here in zip(steps[0] + evaluations[0], steps[1] + evaluations[1], strict=True):
        for key in set(there) & {*EXACT, "step"}:
            assert there[key] == here[key], f"step {there['step']}: {key} {there[key]} and {here[key]}"
        for key in (key for key in there if "loss" in key or key == "grad_norm" or key.startswith("held_out")):
            if there[key] is None or here[key] is None:
                assert there[key] is here[key], f"step {there['step']}: {key} {there[key]} and {here[key]}"
                continue
            assert not exact or there[key] == here[key], f"step {there['step']}: {key} {there[key]!r} and {here[key]!r}"
            if key != "grad_norm":
                worst = max(worst, abs(there[key] - here[key]) / abs(there[key]))
    assert worst <= (0.0 if exact else 1e-5), f"losses differ by {worst:.2e}"
    if exact:
        there, here = weights(unbroken), weights(broken)
        assert there.keys() == here.keys()
        assert all(np.array_equal(there[key], here[key]) for key in there), "weights differ"
    return worst
