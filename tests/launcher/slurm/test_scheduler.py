"""What lehr makes of a job's state in Slurm."""

from __future__ import annotations

import pytest

from launcher.slurm.scheduler import JobState


@pytest.mark.parametrize(
    ("state", "lives"),
    [("PENDING", True), ("COMPLETING", True), ("REQUEUE_HOLD", True), ("COMPLETED", False), ("CANCELLED", False)],
)
def test_a_job_that_may_still_run_lives(state: str, lives: bool) -> None:
    """Also one that is held while it goes back into the queue: it can be cancelled, and its run has no other job."""
    job = JobState(
        state, reason="None", restarts=0, preempted=False, nodes="", excluded="", partition="", start="", end=""
    )
    assert job.lives == lives
