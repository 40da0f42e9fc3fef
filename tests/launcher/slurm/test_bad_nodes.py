"""Nodes that fail their check before the ranks start, on a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import Cluster
from small_runs import make_shards, steps_taken, write_config
from submitted_runs import SubmittedRun


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_bad_node_is_excluded_and_what_never_works_ends_with_its_cause(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    config = write_config(folder, make_shards(folder))
    bad = SubmittedRun(cluster, folder / "runs" / "bad")
    site = {"pre_launch": "echo the fan is loud >&2; [ $(hostname) != n1 ]", "max_failures": 1}
    bad.submit(config, "run.name=bad", site=site)
    state = bad.wait_for_end("COMPLETED")
    assert (state["ExcNodeList"], state["NodeList"]) == ("n1", "n[2-3]")
    assert bad.ends() == [("requeue", "a node is bad", 1), ("end", "the run is done", 0)]
    assert "a node is bad: n1: pre_launch fails: the fan is loud" in bad.output()
    assert steps_taken(bad.path) > 0

    never = SubmittedRun(cluster, folder / "runs" / "never")
    never.submit(config, "run.name=never", site={"pre_launch": "echo no licence >&2; false", "max_failures": 1})
    state = never.wait_for_end("FAILED")
    assert (state["ExcNodeList"], state["Restarts"]) == ("(null)", "1")
    assert [row for _, row, _ in never.ends()] == ["the run has failed", "no progress"]
    last = never.output().splitlines()[-1]
    assert last.startswith("the job ends: no progress: 2 starts without a new checkpoint, more than max_failures = 1; ")
    assert "n1: pre_launch fails: no licence" in last
    assert not (never.path / "metrics.jsonl").exists()


@pytest.mark.slurm
@pytest.mark.timeout(1800)
def test_the_node_that_failed_first_is_let_back_in_when_too_few_others_are_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The job needs two of three nodes. n1 fails first, and is repaired; then n2 fails."""
    config = write_config(tmp_path, make_shards(tmp_path), train={"steps": 100_000}, evaluate={"every_steps": 0})
    (tmp_path / "bad-n1").touch()
    site = {"pre_launch": f"! ls {tmp_path}/bad-$(hostname)"}
    submitted = SubmittedRun(cluster, tmp_path / "runs" / "try").submit(config, site=site)
    submitted.wait_for_begin(2)
    assert cluster.job(submitted.job)["ExcNodeList"] == "n1"
    (tmp_path / "bad-n1").rename(tmp_path / "bad-n2")
    submitted.notice()
    submitted.wait_for_begin(4)
    state = cluster.job(submitted.job)
    assert (state["ExcNodeList"], state["NodeList"]) == ("n2", "n[1,3]")
    submitted.lehr("cancel", submitted.path)
    submitted.wait_for_end("CANCELLED")
