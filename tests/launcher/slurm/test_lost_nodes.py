"""Nodes that are lost while a run trains on them: powered off, their daemon killed, cut off and alive.

Slurm finds that out after some 30 seconds, so `make test-slurm` runs these tests, and `make test` does not.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from processes import lehr
from slurm_cluster import Cluster
from small_runs import make_shards, steps_taken, trajectory, wait_until, write_config
from submitted_runs import SubmittedRun

from train.metrics.jsonl import read_metrics

pytestmark = pytest.mark.slurm

CANCELLED = ("end", "its user has cancelled the job", 0)


@pytest.fixture(scope="module")
def node_timeout_seconds() -> int:
    """Few: each of these tests waits until Slurm gives up a node."""
    return 10


def run_config(folder: Path) -> Path:
    """A run that goes on until it is cancelled: how long Slurm takes to give up a node, no test knows."""
    return write_config(
        folder,
        make_shards(folder),
        train={"steps": 100_000, "global_batch_size": 12, "timeout_seconds": 25, "hang_seconds": 5},
        evaluate={"every_steps": 0},
        checkpoint={"every_steps": 20, "keep_last": 2},
    )


def cancel(submitted: SubmittedRun) -> None:
    """Cancels the job after some more steps."""
    submitted.wait_for_step(steps_taken(submitted.path) + 10)
    submitted.lehr("cancel", submitted.path)
    submitted.wait_for_end("CANCELLED")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loss", ["off", "daemon"])
def test_a_lost_node_is_replaced_and_the_run_is_the_unbroken_one(cluster: Cluster, tmp_path: Path, loss: str) -> None:
    config = run_config(tmp_path)
    submitted = SubmittedRun(cluster, tmp_path / "runs" / "try")
    submitted.submit(config, site={"time": "01:00:00"})
    submitted.wait_for_step(30)
    if loss == "off":
        cluster.power_off("n2")
    else:
        cluster.kill_slurmd("n2")
    submitted.wait_for_begin(2)
    assert "n2" not in cluster.job(submitted.job)["NodeList"]
    cancel(submitted)
    assert submitted.ends()[-2:] == [("requeue", "a node has failed", 1), CANCELLED]
    assert "; a node has failed: n2" in submitted.lehr("status", submitted.path).stdout
    steps = f"train.stop_at_step={steps_taken(submitted.path)}"
    assert lehr("train", config, "run.name=unbroken", "parallel.data=2", steps, timeout=600).returncode == 0
    assert trajectory(submitted.path) == trajectory(tmp_path / "runs" / "unbroken")


@pytest.mark.timeout(1800)
def test_a_job_that_may_be_smaller_goes_on_with_fewer_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm would ask for as many nodes as the job had, and wait for ever."""
    submitted = SubmittedRun(cluster, tmp_path / "runs" / "try")
    submitted.submit(run_config(tmp_path), site={"time": "01:00:00"}, nodes="2-3")
    submitted.wait_for_step(30)
    assert cluster.job(submitted.job)["NumNodes"] == "3"
    cluster.power_off("n3")
    submitted.wait_for_begin(2)
    assert cluster.job(submitted.job)["NodeList"] == "n[1-2]"
    cancel(submitted)


@pytest.mark.timeout(1800)
def test_a_lost_batch_host_is_decided_by_the_next_attempt(cluster: Cluster, tmp_path: Path) -> None:
    submitted = SubmittedRun(cluster, tmp_path / "runs" / "try")
    submitted.submit(run_config(tmp_path), site={"time": "01:00:00"})
    submitted.wait_for_step(30)
    cluster.power_off("n1")
    submitted.wait_for_begin(2)
    cancel(submitted)
    assert submitted.ends() == [("requeue", "a node has failed", 1), CANCELLED]


@pytest.mark.timeout(1800)
def test_a_controller_that_is_restarted_is_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    """The run ends while the controller is away: the decision waits for it."""
    config = write_config(
        tmp_path,
        make_shards(tmp_path),
        train={"steps": 1000},  # so many that the controller is away before the last of them
        evaluate={"every_steps": 0},
        checkpoint={"every_steps": 500, "keep_last": 2},
    )
    submitted = SubmittedRun(cluster, tmp_path / "runs" / "try").submit(config, site={"time": "01:00:00"}, nodes="1")
    submitted.wait_for_step(1)
    with cluster.without_controller():
        assert steps_taken(submitted.path) < 1000
        wait_until(lambda: "done: 1000 steps" in submitted.output(), seconds=400)
        time.sleep(5)
        assert submitted.ends() == []
    submitted.wait_for_end("COMPLETED")
    assert submitted.ends() == [("end", "the run is done", 0)]


@pytest.mark.timeout(1800)
def test_an_isolated_node_is_fenced(cluster: Cluster, tmp_path: Path) -> None:
    """Its rank trains on while the job starts again elsewhere. Only the newer one writes."""
    config = run_config(tmp_path)
    submitted = SubmittedRun(cluster, tmp_path / "runs" / "try")
    submitted.submit(config, site={"time": "01:00:00"}, nodes="1")
    submitted.wait_for_step(30)
    cluster.cut("n1", "eth", "fab")
    submitted.wait_for_begin(2)
    record = submitted.path / "logs" / f"job-{submitted.job}-attempt-1" / "failure-rank-00000.json"
    wait_until(record.exists, seconds=300)
    assert json.loads(record.read_text())["kind"] == "fenced"
    written = steps_taken(submitted.path)
    submitted.wait_for_step(written + 100)
    steps = [values["step"] for values in read_metrics(submitted.path / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    cluster.mend("n1", "eth", "fab")
    over = f"job {submitted.job} attempt 1 is over: Slurm has started the job again meanwhile"
    wait_until(lambda: over in submitted.output(), seconds=300)
    submitted.lehr("cancel", submitted.path)
    submitted.wait_for_end("CANCELLED")
    assert [action for action, _, _ in submitted.ends()] == ["requeue", "end"]
