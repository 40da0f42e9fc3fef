"""A rank ends with torchrun's agent, also if the agent is killed while the rank still imports its libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from small_runs import wait_until

from settings.processes import process_state

AGENT = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-m", "launcher", "train", sys.argv[1]])
print(rank.pid, flush=True)
time.sleep(1000)
"""
VARIABLES = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "9",
    "TORCHELASTIC_RUN_ID": "x",
}


def handles_sigterm(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_rank_ends_with_its_agent_from_the_first_moment_on(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    os.mkfifo(config)  # the reading of the config would never end
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(config)], stdout=subprocess.PIPE, text=True, env={**os.environ, **VARIABLES}
    ) as agent:
        assert agent.stdout is not None
        rank = int(agent.stdout.readline())
        wait_until(lambda: handles_sigterm(rank))  # as it does before its imports
        agent.kill()
    wait_until(lambda: (state := process_state(rank)) is None or state.letter == "Z")


def test_a_rank_without_an_agent_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    """The variables may be set by a program that starts the ranks and ends."""
    config = tmp_path / "config.yaml"
    os.mkfifo(config)
    by_hand = {name: value for name, value in VARIABLES.items() if not name.startswith("TORCHELASTIC")}
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(config)], stdout=subprocess.PIPE, text=True, env={**os.environ, **by_hand}
    ) as agent:
        assert agent.stdout is not None
        rank = int(agent.stdout.readline())
        agent.kill()
    descriptor = os.open(config, os.O_WRONLY)  # returns when the rank reads its config
    assert (state := process_state(rank)) is not None
    assert state.letter != "Z"
    os.kill(rank, 9)
    os.close(descriptor)
