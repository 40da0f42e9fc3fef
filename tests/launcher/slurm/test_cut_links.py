"""The network of the ranks is cut while a run trains: shortly, for good, and in the switch while the link stays up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from processes import lehr
from slurm_cluster import Cluster
from small_runs import make_shards, steps_taken, trajectory, write_config
from submitted_runs import SubmittedRun

pytestmark = pytest.mark.slurm

STEPS, HANG_SECONDS, SHORT_SECONDS = 300, 10, 3
SITE = {"time": "01:00:00", "interface": "fab0"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(
        tmp_path,
        make_shards(tmp_path),
        train={"steps": STEPS, "timeout_seconds": 60, "hang_seconds": HANG_SECONDS},
        evaluate={"every_steps": 0},
        checkpoint={"every_steps": 20, "keep_last": 2},
    )


def assert_unbroken(submitted: SubmittedRun, config: Path) -> None:
    assert lehr("train", config, "run.name=unbroken", "parallel.data=2", timeout=600).returncode == 0
    assert trajectory(submitted.path) == trajectory(config.parent / "runs" / "unbroken")


@pytest.mark.timeout(1800)
def test_a_cut_that_is_shorter_than_the_timeout_is_waited_out(cluster: Cluster, config: Path) -> None:
    submitted = SubmittedRun(cluster, config.parent / "runs" / "try").submit(config, site=SITE)
    submitted.wait_for_step(30)
    cluster.cut("n2", "fab")
    before = steps_taken(submitted.path)
    time.sleep(SHORT_SECONDS)  # the cut itself, not a wait for something
    assert steps_taken(submitted.path) <= before + 1
    cluster.mend("n2", "fab")
    submitted.wait_for_end("COMPLETED")
    assert submitted.ends() == [("end", "the run is done", 0)]
    assert_unbroken(submitted, config)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("link", "n2: its network interface fab0 is down, or its link is"),
        ("switch", "n2: the first node, n1, is not reached over fab0: "),
    ],
)
def test_a_node_that_is_cut_for_longer_is_named_and_excluded(
    cluster: Cluster, config: Path, place: str, found: str
) -> None:
    """The ranks hang, since neither side can know which of them is cut off; the check before the next start finds it.

    The nodes still reach each other by their names, over the network of the controller.
    """
    submitted = SubmittedRun(cluster, config.parent / "runs" / "try").submit(config, site=SITE)
    submitted.wait_for_step(30)
    if place == "link":
        cluster.cut("n2", "fab")
    else:
        cluster.unplug("n2", "fab")
    state = submitted.wait_for_end("COMPLETED")
    assert (state["ExcNodeList"], state["NodeList"]) == ("n2", "n[1,3]")
    rows = [(action, row) for action, row, _ in submitted.ends()]
    assert rows == [("requeue", "the run has failed"), ("requeue", "a node is bad"), ("end", "the run is done")]
    assert f"a node is bad: {found}" in submitted.output()
    assert f"no progress for {HANG_SECONDS} s" in submitted.output()
    assert_unbroken(submitted, config)
