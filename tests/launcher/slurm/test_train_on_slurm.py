"""`srun lehr train` on a real Slurm: ranks of two nodes meet, stop before the job's limit, and tell a mistake once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from small_runs import make_shards, steps_taken, write_config

LEHR = Path(sys.executable).with_name("lehr")
SQUAT = """
import os, socket, time
job, restarts = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
listener = socket.create_server(("0.0.0.0", 15000 + (job * 101 + restarts) % 15000))
open("listens", "w").close()
time.sleep(1000)
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run of four ranks that ends only when it is stopped, 65 s after the begin of a job of three minutes."""
    parallel = {"tensor": 2, "data": 2}
    train = {"steps": 100_000, "stop_before_limit_seconds": 115}
    return write_config(tmp_path, make_shards(tmp_path), parallel=parallel, train=train, checkpoint={"every_steps": 0})


def test_a_mistake_is_told_once_with_its_exit_code(cluster: Cluster, config: Path) -> None:
    """The first rank that ends makes srun kill the others, so none ends before rank 0 has spoken."""
    srun = ("srun", "--kill-on-bad-exit", "--nodes=2", "--ntasks=4")
    done = cluster.run(*srun, LEHR, "train", config, "optim.lr=-1", check=False, timeout=180)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("optim.lr = -1") == 1
    assert not (config.parent / "runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_of_two_nodes_train_and_stop_before_the_limit(cluster: Cluster, config: Path) -> None:
    """The port of the job is taken, and on each node its own name is a loopback address. Slurm tells the limit.

    The job has no variable of the user's shell.
    """
    run, squat, script = config.parent / "runs" / "try", config.parent / "squat.py", config.parent / "job.sh"
    squat.write_text(SQUAT)
    script.write_text(
        f"#!/bin/bash\ncd {config.parent}\nunset SLURM_EXPORT_ENV\n"
        f"{sys.executable} {squat} &\nwhile [ ! -e listens ] && kill -0 $!; do sleep 0.1; done\n"
        f"env -u SLURM_JOB_END_TIME SLURM_TIME_FORMAT=relative srun {LEHR} train {config}\necho srun: $?\n"
    )
    out = config.parent / "job.out"
    options = ("--export=NONE", "--nodes=2", "--ntasks-per-node=2", "--time=3", f"--output={out}", "--cpus-per-task=2")
    job = cluster.run("sbatch", "--parsable", *options, script).stdout.strip()
    cluster.wait_for_job(job, "COMPLETED")
    text = out.read_text()
    assert "srun: 75" in text, text
    assert steps_taken(run) > 0
    expected = {"id": job, "attempt": 1, "node": "n1"}
    (start,) = json.loads((run / "run.json").read_text())["starts"]
    assert (start["job"], start["host"]) == (expected, "n1")
    assert json.loads((run / "checkpoints" / "claim.json").read_text())["job"] == f"job {job} attempt 1"
    logs = sorted((run / "logs" / f"job-{job}-attempt-1").glob("rank-*.log"))
    assert len(logs) == 4
    for rank, log in enumerate(logs):
        header = log.read_text().splitlines()[0]
        assert f"rank {rank}, process " in header
        assert header.endswith(f" on n{1 + rank // 2}, job {job} attempt 1 ===")
