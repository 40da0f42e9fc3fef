"""Ranks that torchrun starts on each node of a job: their exit codes and signals, which torchrun itself would hide."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import lehr
from slurm_cluster import Cluster
from small_runs import make_shards, trajectory, wait_until, write_config
from submitted_runs import SubmittedRun

from launcher.slurm.torchrun_node import node_exit_code, own_codes

SITE = {"launch": "torchrun", "ranks_per_node": 2, "cpus_per_task": 2, "time": "01:00:00"}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({0: 75, 1: 75}, 75),
        ({0: 75, 1: 1}, 1),
        ({0: 1, 1: -9}, 137),
        ({2: -15, 3: 77}, 77),
        ({2: 1, 3: 2}, 2),
        ({2: 76, 3: -9}, 76),
    ],
)
def test_the_exit_code_of_a_node(codes: dict[int, int], expected: int) -> None:
    assert node_exit_code(codes) == expected


def test_ranks_that_the_agent_has_ended_are_not_the_cause() -> None:
    """It ends the others with SIGTERM, and 30 s later with SIGKILL; a rank that was killed at once is a cause."""
    assert own_codes({0: (-15, 101), 1: (75, 100)}) == {1: 75}
    assert own_codes({0: (-9, 130), 1: (1, 100), 2: (-15, 101)}) == {1: 1}
    assert own_codes({0: (-9, 100), 1: (1, 100)}) == {0: -9, 1: 1}
    assert own_codes({0: (-15, 100), 1: (-15, 100)}) == {0: -15, 1: -15}


NODE = """
import sys
from launcher.processes.rank_info import RankInfo
from launcher.slurm.torchrun_node import run_node
place = RankInfo(0, 0, 1, 1, 0, "127.0.0.1", int(sys.argv[1]), "srun")
sys.exit(run_node(["bash", "-c", sys.argv[2]], place, ranks_per_node=2, node="n1"))
"""


def start_node(rank: str) -> subprocess.Popen[str]:
    """Starts two ranks on this machine, as on the only node of a job. `rank`: what each does, in the shell's words."""
    return subprocess.Popen([sys.executable, "-c", NODE, free_port(), rank], stderr=subprocess.PIPE, text=True)


def free_port() -> str:
    """Returns a port on which nobody listens, below those that a connection of another test may get by chance."""
    for number in itertools.count(os.getpid()):
        port = 15_000 + number % 15_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return str(port)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=250)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_reaches_every_rank_and_an_early_stop_is_told(tmp_path: Path, number: signal.Signals) -> None:
    """The ranks take a moment to save. When one has ended, torchrun's agent sends the other SIGTERM, as it does."""
    saves = f"trap true TERM; sleep $((RANK + 1)); touch {tmp_path}/saved-$RANK; exit 75"
    waits = f"trap '{saves}' USR1 TERM; touch {tmp_path}/up-$RANK"
    process = start_node(f"{waits}; while :; do sleep 0.1; done")
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2, seconds=250)
    process.send_signal(number)
    code, errors = ended(process)
    assert code == 75, errors
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


def test_a_rank_that_is_killed_is_named_and_one_with_a_mistake_decides() -> None:
    killed = start_node('[ "$RANK" = 0 ] || kill -KILL $BASHPID; sleep 250')
    assert ended(killed) == (137, "rank 1 on n1: Killed\n")
    assert ended(start_node("echo the mistake >&2; exit 2"))[0] == 2
    assert ended(start_node('[ "$WORLD_SIZE $LOCAL_RANK" = "2 $RANK" ]')) == (0, "")


@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_a_job_of_torchrun_saves_comes_back_and_tells_a_mistake(cluster: Cluster, tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    config = write_config(
        tmp_path,
        shards,
        train={"steps": 300},
        evaluate={"every_steps": 0},
        checkpoint={"every_steps": 20, "keep_last": 2},
        parallel={"tensor": 2, "data": 2},
    )
    submitted = SubmittedRun(cluster, tmp_path / "runs" / "try").submit(config, site=SITE)
    submitted.wait_for_begin(1)
    submitted.notice()
    submitted.wait_for_begin(2)
    cluster.run_on("n2", "pkill", "-KILL", "--newest", "-f", "lehr train")
    submitted.wait_for_end("COMPLETED")
    assert submitted.ends() == [
        ("requeue", "stopped early, with a new checkpoint", 0),
        ("requeue", "the run has failed", 1),
        ("end", "the run is done", 0),
    ]
    assert re.search(r"the run has failed: rank [23] on n2: killed\n", submitted.output())
    assert lehr("train", config, "run.name=unbroken", timeout=300).returncode == 0
    assert trajectory(submitted.path) == trajectory(tmp_path / "runs" / "unbroken")

    mistaken = SubmittedRun(cluster, tmp_path / "runs" / "mistaken")
    mistaken.submit(config, "run.name=mistaken", "--sbatch", "begin=now+1hour", site=SITE)
    shards.rename(tmp_path / "moved")
    cluster.run("scontrol", "update", f"JobId={mistaken.job}", "StartTime=now")
    assert mistaken.wait_for_end("FAILED")["ExitCode"] == "2:0"
    assert mistaken.ends() == [("end", "the config or a file that it names has a mistake", 0)]
    assert mistaken.output().count("error: ") - mistaken.output().count("srun: error: ") == 1
