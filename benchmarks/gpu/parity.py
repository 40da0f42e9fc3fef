"""The losses of a small model on the GPU against the CPU's: precisions, optimizers, ZeRO, recomputation, compiled."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from gpu.context import Context, Row
from gpu.parity_cases import CASES
from gpu.processes import start, wait


def measure(context: Context) -> Iterator[Row]:
    """Yields a row for each case: the largest difference of a loss, and whether all losses are equal to the bit.

    Both devices train at the same time, each in a process of its own.
    """
    form = "tiny" if context.tiny else "full"
    logs = {side: context.folder / f"parity-{side}.log" for side in ("all", "reference")}
    sides = {
        side: start(
            [sys.executable, "-m", "gpu.parity_side", side, form],
            log,
            {"CUDA_VISIBLE_DEVICES": ""} if side != "all" else {},
        )
        for side, log in logs.items()
    }
    codes = {side: wait(process, context.seconds_left) for side, process in sides.items()}
    rows, on_cpu = (_read(log) for log in logs.values())
    for name, case in CASES.items():
        if context.tiny and case.compiled:
            continue
        reference = on_cpu.get(name) if case.against == "CPU" else rows.get(case.against)
        yield {"case": name, "against": case.against, **difference(rows.get(name), reference)}
    for side, code in codes.items():
        if code != 0:
            yield {"case": side, "outcome": f"ended with {code}", "output": logs[side].read_text()[-600:]}


def difference(row: Row | None, reference: Row | None) -> Row:
    """Returns how the losses of a case differ from those of its reference, or why they cannot be compared."""
    for each in (row, reference):
        if each is None or "losses" not in each:
            return {"outcome": "not reached" if each is None else each["outcome"]}
    assert row is not None
    assert reference is not None
    pairs = list(zip(row["losses"], reference["losses"], strict=True))
    return {
        "largest_difference": float(f"{max(abs(a - b) for a, b in pairs):.1e}"),
        "equal": all(a == b for a, b in pairs),
        "loss": round(row["losses"][-1], 6),
    }


def _read(log: Path) -> dict[str, Row]:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ROW ")]
    return {row["case"]: row for row in (json.loads(line.removeprefix("ROW ")) for line in lines)}
