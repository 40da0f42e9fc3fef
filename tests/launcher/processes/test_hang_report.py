"""What is said of ranks that do not speak for themselves: by their launch, and by each other through the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from processes import run_ranks

from launcher.processes.environment import SINGLE
from launcher.processes.failure_reports import of_hang
from launcher.processes.hang_report import STACKS_SIGNAL, ask_for_stacks, explain_hang
from launcher.processes.rendezvous import silent_ranks

HANGS = f"""
import faulthandler, sys, time
faulthandler.register({int(STACKS_SIGNAL)}, file=2, all_threads=True)
def waits_for_godot():
    print("ready", flush=True)
    time.sleep(1000)
waits_for_godot()
"""


def test_a_stopped_rank_shows_its_stack(tmp_path: Path) -> None:
    log = tmp_path / "rank-00003.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=file)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.2)
    silent = ask_for_stacks(3, process.pid, log)
    time.sleep(0.5)
    process.kill()
    process.wait()
    process.stdout.close()
    spoke = {0: of_hang("no progress for 5 s at step 7, in all_reduce of parallel/mesh.py:1", "its stack\n")}
    lines = explain_hang(spoke, [silent]).splitlines()
    assert lines[:5] == [
        "the run hangs:",
        "  rank 0: no progress for 5 s at step 7, in all_reduce of parallel/mesh.py:1",
        "  rank 3 does not answer: its process is stopped (SIGSTOP or Ctrl-Z; SIGCONT would let it go on)",
        "rank 0:",
        "  its stack",
    ]
    assert lines[5] == f"rank 3, from its log {log}:"
    assert "in waits_for_godot" in lines[6]


def test_a_rank_that_is_gone_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    log = tmp_path / "rank-00001.log"
    log.write_bytes(b"")
    silent = ask_for_stacks(1, process.pid, log)
    assert "rank 1 does not answer" in explain_hang({}, [silent])


def who_is_silent(silent: list[int]) -> str | None:
    store = dist.distributed_c10d._get_default_store()
    ranks = replace(SINGLE, rank=dist.get_rank(), world_size=dist.get_world_size())
    if ranks.rank in silent:
        return None
    return silent_ranks(store, ranks, seconds=1.0)


def test_one_rank_names_those_that_are_silent() -> None:
    assert run_ranks(3, who_is_silent, []) == ["all ranks hang", "", ""]
    one = "no answer from rank 1: stopped, or out of reach"
    assert run_ranks(3, who_is_silent, [1]) == [one, None, ""]
    two = "no answer from ranks 0, 1: stopped, or out of reach"
    assert run_ranks(3, who_is_silent, [0, 1]) == [None, None, two]


def test_a_store_that_does_not_answer_is_no_wait() -> None:
    class Stuck:
        def set(self, key: str, value: str) -> None:
            time.sleep(1000)

    began = time.monotonic()
    said = silent_ranks(Stuck(), replace(SINGLE, world_size=2), seconds=0.2)  # type: ignore[arg-type]
    assert "does not answer" in said
    assert time.monotonic() - began < 5


def test_the_signal_for_stacks_is_not_one_that_stops() -> None:
    from launcher.processes.signals import STOP_SIGNALS

    assert STACKS_SIGNAL not in STOP_SIGNALS
