"""What lehr makes of a job's state in Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.slurm import scheduler
from launcher.slurm.scheduler import JobState
from settings import RunError


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


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for scontrol, which fails as the test asks for: a real controller cannot be made to do so at will."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("_TRY_SECONDS", "_AGAIN_SECONDS"):
        monkeypatch.setattr(scheduler, name, 0.01)
    return tmp_path / "scontrol"


def write_script(path: Path, text: str) -> None:
    path.write_text(f'#!/bin/bash\necho "$*" >> "$0.calls"\ncalls=$(wc -l < "$0.calls")\n{text}\n')
    path.chmod(0o755)


def calls(path: Path) -> list[str]:
    return path.with_name("scontrol.calls").read_text().splitlines()


def test_a_release_that_fails_is_tried_again_and_else_the_job_is_said_to_be_held(scontrol: Path) -> None:
    write_script(
        scontrol, 'if [ "$calls" -lt 3 ]; then echo "Requested operation is presently disabled" >&2; exit 1; fi'
    )
    scheduler.release("12")
    assert calls(scontrol) == ["release 12"] * 3
    write_script(scontrol, "echo 'Access denied' >&2; exit 1")
    with pytest.raises(
        RunError, match=r"job 12 stays held \(Access denied\): `scontrol release 12` lets it start again"
    ):
        scheduler.release("12")


def test_a_controller_that_is_silent_is_asked_again(
    scontrol: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its first answer does not come; sbatch is not called twice, because the job may have been submitted."""
    monkeypatch.setattr(scheduler, "_SECONDS", 1.0)
    write_script(scontrol, '[ "$calls" -gt 1 ] || exec sleep 600')
    scheduler.release("12")
    assert len(calls(scontrol)) == 2
    assert capfd.readouterr().err.count("Slurm's controller is away: scontrol is tried again") == 1
    write_script(scontrol.with_name("sbatch"), "exec sleep 600")
    with pytest.raises(RunError, match="sbatch has not answered for 1 s"):
        scheduler.submit("#!/bin/bash")
    assert len(scontrol.with_name("sbatch.calls").read_text().splitlines()) == 1


def test_a_job_without_a_change_is_put_back_by_one_command(scontrol: Path) -> None:
    """So there is no moment in which it is held, and would stay so if this process were killed."""
    write_script(scontrol, "")
    assert scheduler.requeue("12", nodes="2")
    assert calls(scontrol) == ["requeue 12"]
    assert scheduler.requeue("12", excluded=["n3", "n1"], nodes="2-4")
    change = "update JobId=12 ExcNodeList=n3,n1 NumNodes=2-4"
    assert calls(scontrol)[1:] == ["requeuehold 12", change, "release 12"]
