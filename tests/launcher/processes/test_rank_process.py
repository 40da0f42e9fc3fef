"""The time at which a rank has failed, as its parent sees it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

from launcher.processes.rank_process import RankProcess

_SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]  # ends the calling thread alone


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_rank_that_is_ending_failed_before_it_began_to(tmp_path: Path) -> None:
    """A process whose first thread has ended, and another not yet, is ending, and cannot be waited for."""
    go_read, go_write = os.pipe()
    report_read, report_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        threading.Thread(target=time.sleep, args=(600,)).start()
        os.read(go_read, 1)
        ctypes.CDLL(None).syscall(_SYS_EXIT, 0)
    os.close(report_write)
    path = tmp_path / "rank-00001.log"
    rank = RankProcess(1, pid, report_read, path.open("ab", buffering=0), path)
    try:
        before = time.time()
        rank.poll()
        assert rank.runs
        assert rank.failed_at >= before  # it ran
        os.write(go_write, b"g")
        while state_of(pid) != "Z":
            time.sleep(0.001)
        lost = time.time()  # from now on other ranks may fail
        time.sleep(0.01)
        rank.poll()
        assert rank.runs
        assert rank.failed_at < lost
        os.kill(pid, signal.SIGKILL)
        while rank.runs:
            rank.poll()
        assert rank.failed
        assert rank.failed_at < lost
    finally:
        rank.kill()
        rank.close()
        for descriptor in (go_read, go_write):
            os.close(descriptor)
