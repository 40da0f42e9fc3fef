"""Why an attempt has failed: by the failures that its ranks have recorded, and by what srun has printed.

A rank that is killed records nothing, and its peers record that they have lost it. srun names it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.exit_codes import BY_SIGNAL, DONE, FAILED, STOPPED_EARLY, code_of

_MOST_CHARACTERS, _MOST_NAMED = 300, 4
_HEADER = re.compile(r"=== \S+ rank (\d+), process \d+ on ([^,\s]+)")  # of launcher/processes/rank_logs.py
_SIGNALS = "(?P<signal>Killed|Segmentation fault|Bus error|Aborted|Illegal instruction)"
# Such as `srun: error: n2: task 3: Killed`, or `n[1-2]: tasks 0-3: Segmentation fault (core dumped)`.
_ENDED_TASK = re.compile(rf"^srun: error: (?P<node>\S+): tasks? (?P<ranks>[\d,-]+): {_SIGNALS}", re.M)
# Such as `rank 3 on n2: Killed`, of launcher/slurm/torchrun_node.py.
_ENDED_RANK = re.compile(rf"^rank (?P<ranks>\d+) on (?P<node>\S+): {_SIGNALS}", re.M)
_OF_ANOTHER_RANK = re.compile(r"(rank \d+): ")
# After this line srun itself kills the tasks that are left.
_SRUN_KILLS = re.compile(r"^srun: First task exited|^srun: got SIG|^srun: Job step aborted", re.M)


def exit_code_of(failures: Sequence[Mapping[str, Any]], exit_code: int) -> int:
    """Returns the exit code of an attempt: that of the failure that its ranks have recorded, else that of srun.

    srun tells the highest code of its tasks, and that of a task which it has killed itself may be the highest.
    """
    codes = [code_of(str(failure.get("kind"))) for failure in failures]
    decisive = [code for code in codes if code != FAILED]
    if decisive:
        return decisive[0]
    return FAILED if codes and exit_code == STOPPED_EARLY else exit_code


def silent_ranks(logs: Path, failures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the ranks of an attempt that have recorded no failure, each as `rank 1 on n2`, by their logs."""
    spoken = {failure.get("rank") for failure in failures}
    found = []
    for path in sorted(logs.glob("rank-*.log")):
        with path.open(encoding="utf-8", errors="replace") as file:
            match = _HEADER.match(file.readline())
        if match is not None and int(match[1]) not in spoken:
            found.append(f"rank {match[1]} on {match[2]}")
    return found


def cause_of(failures: Sequence[Mapping[str, Any]], exit_code: int, output: str, silent: Sequence[str] = ()) -> str:
    """Returns the cause of an attempt's end, in a line; "" if it was done or stopped early.

    `failures`: of the ranks, the earliest first. `output`: what the batch file and srun have printed. `silent`: the
    ranks without a recorded failure. In a hang they are the cause, unless they are more than the others.
    """
    if exit_code_of(failures, exit_code) in (DONE, STOPPED_EARLY):
        return ""
    before = _SRUN_KILLS.split(output)[0]
    if killed := _ENDED_RANK.search(before) or _ENDED_TASK.search(before):
        ranks = "rank" if killed["ranks"].isdigit() else "ranks"
        return f"{ranks} {killed['ranks']} on {killed['node']}: {killed['signal'].lower()}"
    if failures:
        first = failures[0]
        lines = str(first.get("message", "")).splitlines() or [""]
        hangs = first.get("kind") == "hang" and 0 < len(silent) <= len(failures)
        silence = f"{', '.join(silent[:_MOST_NAMED])} gave no answer; " if hangs else ""
        place, line = f"rank {first.get('rank')} on {first.get('node') or 'an unknown node'}", lines[0]
        told = _OF_ANOTHER_RANK.match(line)  # one that could not write its own record
        if told and (others := [each for each in silent if each.startswith(f"{told[1]} on ")]):
            place, line = others[0], line.removeprefix(told[0])
        return f"{silence}{place}: {line[:_MOST_CHARACTERS]}"
    number = exit_code - BY_SIGNAL  # srun has exit codes of its own, above those of all signals
    return f"signal {number} has ended a rank" if 0 < number < signal.NSIG else f"exit code {exit_code}"
