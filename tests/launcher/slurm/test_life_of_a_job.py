"""The life of a job on a real Slurm: it is stopped, preempted, fails, and comes to the result of an unbroken run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from processes import lehr
from slurm_cluster import Cluster
from small_runs import make_shards, steps_taken, trajectory, write_config
from submitted_runs import SubmittedRun

STEPS = 120


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run of some seconds with checkpoints, on four ranks."""
    return write_config(
        tmp_path,
        make_shards(tmp_path),
        train={"steps": STEPS},
        evaluate={"every_steps": 60},
        checkpoint={"every_steps": 20, "keep_last": 2},
        parallel={"tensor": 2, "data": 2},
    )


def site(**settings: Any) -> dict[str, Any]:
    return {"ranks_per_node": 2, "cpus_per_task": 2, "time": "00:20:00", **settings}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_that_is_stopped_and_loses_a_rank_ends_as_the_unbroken_run(cluster: Cluster, config: Path) -> None:
    """The notice before the time limit is not counted as a failure, a rank that is killed is."""
    submitted = SubmittedRun(cluster, config.parent / "runs" / "broken")
    submitted.submit(config, "run.name=broken", site=site())
    again = submitted.lehr("submit", config, "run.name=broken", check=False)
    assert again.returncode == 2
    assert f"job {submitted.job} was submitted for it and is " in again.stderr
    submitted.wait_for_begin(1)
    submitted.notice()
    submitted.wait_for_begin(2)
    cluster.run_on("n2", "kill", "-KILL", cluster.run_on("n2", "pgrep", "--newest", "-f", "lehr train").strip())
    submitted.wait_for_end("COMPLETED")
    assert submitted.ends() == [
        ("requeue", "stopped early, with a new checkpoint", 0),
        ("requeue", "the run has failed", 1),
        ("end", "the run is done", 0),
    ]
    status = submitted.lehr("status", submitted.path).stdout
    assert f"step {STEPS} of {STEPS}: loss " in status
    assert re.search(r"; the run has failed: rank [23] on n2: killed\n", status)
    assert "effective training time ratio" in status
    merged = submitted.lehr("logs", submitted.path, "--attempt", "1").stdout.splitlines()
    assert {line.split()[2] for line in merged} == {"0:", "1:", "2:", "3:"}
    assert sorted(merged, key=lambda line: line[:24]) == merged
    assert "its log: " in submitted.lehr("logs", submitted.path, "--error").stdout
    assert lehr("train", config, "run.name=unbroken", timeout=200).returncode == 0
    assert trajectory(submitted.path) == trajectory(config.parent / "runs" / "unbroken")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cancelled_job_stays_gone_and_a_preempted_one_comes_back(cluster: Cluster, config: Path) -> None:
    """Slurm sends the same signal for both, and the ranks save. Submitted again, the run goes on with fewer nodes."""
    submitted = SubmittedRun(cluster, config.parent / "runs" / "try")
    options = ("train.steps=100000", "train.global_batch_size=6", "train.micro_batch_size=1", "parallel.tensor=1")
    submitted.submit(config, *options, nodes="3", site=site(ranks_per_node=1))
    submitted.wait_for_begin(1)
    cluster.run("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    submitted.wait_for_begin(2)
    assert submitted.ends() == [("requeue", "another job has preempted it", 0)]
    cluster.run("scancel", submitted.job)
    submitted.wait_for_end("CANCELLED")
    assert submitted.ends()[1:] == [("leave", "Slurm has cancelled it, or puts it back itself", 0)]
    assert "stopped at step" in submitted.output()
    assert cluster.job(submitted.job)["Restarts"] == "1"
    cancelled, step = submitted.job, steps_taken(submitted.path)
    submitted.submit(config, *options, nodes="2", site=site(ranks_per_node=1))
    assert submitted.job != cancelled
    submitted.wait_for_begin(1)
    assert f"Goes on from step {step}" in submitted.output()
    status = submitted.lehr("status", submitted.path).stdout
    assert f"job {submitted.job}: running, attempt 1, on n[1-2], until " in status
    assert " of 100000: loss " in status
    submitted.lehr("cancel", submitted.path)
    submitted.wait_for_end("CANCELLED")
    assert submitted.ends()[2:] == [("end", "its user has cancelled the job", 0)]
