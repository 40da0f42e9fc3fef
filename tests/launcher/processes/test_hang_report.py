"""The message of a hang: by lehr's own launcher, and by the ranks themselves through the store."""

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

from launcher.processes.failure_reports import FailureReport
from launcher.processes.hang_exchange import exchange_hangs
from launcher.processes.hang_report import STACKS_SIGNAL, explain_hang, request_stacks
from launcher.processes.rank_info import SINGLE_PROCESS

HANGS = f"""
import faulthandler, sys, time
faulthandler.register({int(STACKS_SIGNAL)}, file=2, all_threads=True)
def wait_forever():
    print("ready", flush=True)
    time.sleep(1000)
wait_forever()
"""


def wait_for_text(log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stopped_rank_shows_its_stack(tmp_path: Path) -> None:
    log = tmp_path / "rank-00003.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=file)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    unresponsive = request_stacks(3, process.pid, log)
    wait_for_text(log, "most recent call first")
    process.kill()
    process.wait()
    process.stdout.close()
    reports = {
        0: FailureReport.from_hang("no progress for 5 s at step 7, in all_reduce of parallel/mesh.py:1", "its stack\n")
    }
    lines = explain_hang(reports, [unresponsive]).splitlines()
    assert lines[:5] == [
        "the run hangs:",
        "  rank 0: no progress for 5 s at step 7, in all_reduce of parallel/mesh.py:1",
        "  rank 3 does not answer: its process is stopped (SIGSTOP or Ctrl-Z; SIGCONT would let it continue)",
        "rank 0:",
        "  its stack",
    ]
    assert lines[5] == f"rank 3, from its log {log}:"
    assert "in wait_forever" in lines[6]


def test_a_rank_that_has_ended_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    log = tmp_path / "rank-00001.log"
    log.write_bytes(b"")
    unresponsive = request_stacks(1, process.pid, log)
    assert "rank 1 does not answer" in explain_hang({}, [unresponsive])


def unresponsive_ranks(unresponsive: list[int]) -> str | None:
    store = dist.distributed_c10d._get_default_store()
    rank_info = replace(SINGLE_PROCESS, rank=dist.get_rank(), world_size=dist.get_world_size())
    dist.barrier()  # else a rank that is slow to start would count as one that does not answer
    if rank_info.rank in unresponsive:
        return None
    return exchange_hangs(store, rank_info, [], seconds=1.5)


def test_one_rank_names_the_unresponsive_ranks() -> None:
    assert run_ranks(3, unresponsive_ranks, []) == ["all ranks hang", "", ""]
    one = "no answer from rank 1: stopped, or out of reach"
    assert run_ranks(3, unresponsive_ranks, [1]) == [one, None, ""]
    two = "no answer from ranks 0, 1: stopped, or out of reach"
    assert run_ranks(3, unresponsive_ranks, [0, 1]) == [None, None, two]


def test_a_store_that_does_not_answer_takes_no_longer() -> None:
    class Stuck:
        def set(self, key: str, value: str) -> None:
            time.sleep(1000)

    line = exchange_hangs(Stuck(), replace(SINGLE_PROCESS, world_size=2), [], seconds=0.2)  # type: ignore[arg-type]
    assert "does not answer" in line


def test_the_signal_for_stacks_is_no_stop_signal() -> None:
    from train.safety.stop_signals import STOP_SIGNALS

    assert STACKS_SIGNAL not in STOP_SIGNALS
