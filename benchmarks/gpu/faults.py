"""Injected faults: a step that is not finite, a kernel that does not end, no memory left; how and when the run ends."""

from __future__ import annotations

import dataclasses
import socket
import sys
import time
from collections.abc import Iterator

from gpu.context import Context, Row
from gpu.lehr_runs import overrides, read_steps, write_config
from gpu.processes import start, wait
from launcher.processes.rank_info import SINGLE_PROCESS, torchrun_variables

# What the output must have, and the exit code.
_EXPECTED = {"nan": ("skipped", 0), "hang": ("no progress for", 1), "memory": ("out of memory", 1)}


def measure(context: Context) -> Iterator[Row]:
    """Yields a row for each fault. The three runs go on at the same time, as single ranks that torchrun would start."""
    config = write_config(context, context.size("160M"))
    began = time.monotonic()
    processes = {}
    for fault in _EXPECTED:
        values = {
            "train.steps": 5,
            "train.micro_batch_size": 1,
            "train.global_batch_size": 2,
            "train.hang_seconds": 5,
            "train.compile": False,  # it would take longer than the fault
            "run.name": fault,
        }
        command = [sys.executable, "-m", "gpu.faulty_lehr", fault, "train", config, *overrides(values)]
        rank = dataclasses.replace(SINGLE_PROCESS, master_port=_free_port())
        processes[fault] = start(command, context.folder / f"{fault}.log", torchrun_variables(rank))
    for fault, process in processes.items():
        code = wait(process, context.seconds_left)
        yield _outcome(fault, code, context, seconds=time.monotonic() - began)


def _outcome(fault: str, code: int | str, context: Context, *, seconds: float) -> Row:
    words, expected_code = _EXPECTED[fault]
    output = (context.folder / f"{fault}.log").read_text(errors="replace")
    events = context.folder / "runs" / fault / "events.jsonl"
    said = words in output.lower() or (events.exists() and words in events.read_text().lower())
    row: Row = {
        "case": fault,
        "as_expected": code == expected_code and said,
        "code": code,
        "steps": len(read_steps(context.folder / "runs" / fault)),
        "seconds": round(seconds, 1),
        "message": _message(output, words),
    }
    return row if row["as_expected"] else {**row, "output": output[-600:]}


def _message(output: str, words: str) -> str:
    """Returns the first line with these words."""
    return next((line.strip()[:300] for line in output.splitlines() if words in line.lower()), "")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
