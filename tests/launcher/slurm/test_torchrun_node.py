"""Ranks that torchrun starts on each node of a job: their exit codes and signals, which torchrun itself would hide."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import lehr
from slurm_cluster import Cluster
from small_runs import make_shards, trajectory, write_config
from submitted_runs import SubmittedRun

from launcher.slurm.torchrun_node import node_exit_code

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
    cluster.run_on("n2", "pkill", "-KILL", "--newest", "-f", "launcher train")
    submitted.wait_for_end("COMPLETED")
    assert submitted.ends() == [
        ("requeue", "stopped early, with a new checkpoint", 0),
        ("requeue", "the run has failed", 1),
        ("end", "the run is done", 0),
    ]
    assert "the run has failed: rank 3 on n2: killed" in submitted.output()
    assert lehr("train", config, "run.name=unbroken", timeout=300).returncode == 0
    assert trajectory(submitted.path) == trajectory(tmp_path / "runs" / "unbroken")

    mistaken = SubmittedRun(cluster, tmp_path / "runs" / "mistaken")
    mistaken.submit(config, "run.name=mistaken", "--sbatch", "begin=now+1hour", site=SITE)
    shards.rename(tmp_path / "moved")
    cluster.run("scontrol", "update", f"JobId={mistaken.job}", "StartTime=now")
    assert mistaken.wait_for_end("FAILED")["ExitCode"] == "2:0"
    assert mistaken.ends() == [("end", "the config or a file that it names has a mistake", 0)]
    assert mistaken.output().count("error: ") - mistaken.output().count("srun: error: ") == 1
