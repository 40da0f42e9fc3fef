"""The cause of a failed attempt, from records and output as a real Slurm 22.05 has left them."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from launcher.processes.rank_logs import header_line
from launcher.processes.slurm import SlurmJob
from launcher.slurm.cause import cause_of, exit_code_of, silent_ranks

PEER = {"kind": "failure", "rank": 0, "node": "n1", "message": "RuntimeError: Connection closed by peer\nmore"}
DIVERGED = {"kind": "diverged", "rank": 1, "node": "n1", "message": "the run diverged"}
KILLED = (
    "job 1 attempt 1 begins on n[1-2]\nsrun: error: n2: task 3: Killed\n"
    "srun: error: n1: task 0: Exited with exit code 1\n"
)
SEGFAULTS = "srun: error: n[1-2]: tasks 0-3: Segmentation fault (core dumped)\n"
WAITED = (
    "srun: error: n1: task 0: Exited with exit code 1\nsrun: First task exited 60s ago\n"
    "srun: StepId=1.0 task 1: running\nsrun: error: n2: task 3: Killed\n"
)


@pytest.mark.parametrize(
    ("failures", "code", "output", "cause"),
    [
        ([PEER], 137, KILLED, "rank 3 on n2: killed"),
        ([], 137, KILLED, "rank 3 on n2: killed"),
        ([PEER], 137, WAITED, "rank 0 on n1: RuntimeError: Connection closed by peer"),
        ([PEER], 1, "", "rank 0 on n1: RuntimeError: Connection closed by peer"),
        ([], 139, SEGFAULTS, "ranks 0-3 on n[1-2]: segmentation fault"),
        (
            [PEER],
            137,
            "rank 3 on n2: Killed\nsrun: error: n2: task 1: Exited with exit code 137\n",
            "rank 3 on n2: killed",
        ),
        ([], 143, "", "signal 15 has ended a rank"),
        ([], 3, "", "exit code 3"),
        ([], 233, "srun: error: Application launch failed: Communication connection failure\n", "exit code 233"),
        ([], 75, KILLED, ""),
        ([], 0, "", ""),
    ],
)
def test_the_cause(failures: list[dict[str, object]], code: int, output: str, cause: str) -> None:
    assert cause_of(failures, code, output) == cause


def test_a_rank_that_gives_no_answer_is_the_cause_of_a_hang(tmp_path: Path) -> None:
    job = SlurmJob("1", 1, "")
    for rank in range(3):
        (tmp_path / f"rank-{rank:05d}.log").write_text(header_line(rank, job) + "\nstep 1\n")
    hang = {"kind": "hang", "rank": 0, "node": "n1", "message": "no progress for 6 s at step 7"}
    silent = silent_ranks(tmp_path, [hang, {**hang, "rank": 2}])
    assert silent == [f"rank 1 on {platform.node()}"]
    own = "rank 0 on n1: no progress for 6 s at step 7"
    assert cause_of([hang, {**hang, "rank": 2}], 1, "", silent) == f"{silent[0]} gave no answer; {own}"
    assert cause_of([hang], 1, "", ["rank 1 on n1", "rank 2 on n2"]) == own
    assert cause_of([PEER], 1, "", silent) == "rank 0 on n1: RuntimeError: Connection closed by peer"


def test_a_rank_that_could_not_write_its_own_record_is_named_with_its_node() -> None:
    """As on a node whose file system has become read-only: another rank tells what it has heard."""
    told = {**PEER, "message": "rank 1: saving a checkpoint failed: Read-only file system"}
    cause = "rank 1 on n3: saving a checkpoint failed: Read-only file system"
    assert cause_of([told], 1, "", ["rank 1 on n3"]) == cause
    assert cause_of([told], 1, "") == f"rank 0 on n1: {told['message']}"


@pytest.mark.parametrize(
    ("failures", "code", "expected"),
    [([PEER, DIVERGED], 137, 77), ([PEER], 75, 1), ([PEER], 137, 137), ([], 75, 75), ([], 0, 0)],
)
def test_the_exit_code(failures: list[dict[str, object]], code: int, expected: int) -> None:
    assert exit_code_of(failures, code) == expected
