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
    """Its first answer does not come."""
    monkeypatch.setattr(scheduler, "_SECONDS", 1.0)
    write_script(scontrol, '[ "$calls" -gt 1 ] || exec sleep 600')
    scheduler.release("12")
    assert len(calls(scontrol)) >= 2  # on a busy machine the second answer may be late too
    assert capfd.readouterr().err.count("Slurm's controller is away: scontrol is tried again") == 1


def test_sbatch_is_not_called_twice_because_the_job_may_have_been_submitted(
    scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = scontrol.with_name("sbatch")
    write_script(
        sbatch, "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"
    )
    with pytest.raises(RunError, match="Slurm has not answered sbatch, and may have taken the job all the same"):
        scheduler.submit("#!/bin/bash")
    assert len(sbatch.with_name("sbatch.calls").read_text().splitlines()) == 1
    monkeypatch.setattr(scheduler, "_SECONDS", 1.0)
    write_script(sbatch, "exec sleep 600")
    with pytest.raises(RunError, match="Slurm has not answered sbatch"):
        scheduler.submit("#!/bin/bash")
    write_script(
        sbatch, 'if [ "$calls" -lt 4 ]; then echo "Unable to contact slurm controller" >&2; exit 1; fi; echo 7'
    )
    monkeypatch.setattr(scheduler, "_SECONDS", 60.0)
    assert scheduler.submit("#!/bin/bash") == "7"  # the controller has not heard of it before


def test_a_job_that_is_back_already_by_a_call_without_an_answer_is_changed_and_released(scontrol: Path) -> None:
    """The answers are those of a real Slurm 22.05."""
    write_script(
        scontrol,
        """
        case "$calls $1" in
            "1 requeuehold") echo "Socket timed out on send/recv operation" >&2; exit 1 ;;
            *" requeuehold") echo "Job is pending execution for job 12" >&2; exit 1 ;;
        esac
        """,
    )
    assert scheduler.requeue("12", excluded=["n3"], nodes="2")
    hold, change = "requeuehold 12", "update JobId=12 ExcNodeList=n3 NumNodes=2"
    assert calls(scontrol) == [hold, hold, change, "release 12"]


def test_a_job_without_a_change_is_put_back_by_one_command(scontrol: Path) -> None:
    """So there is no moment in which it is held, and would stay so if this process were killed."""
    write_script(scontrol, "")
    assert scheduler.requeue("12", nodes="2")
    assert calls(scontrol) == ["requeue 12"]
    assert scheduler.requeue("12", excluded=["n3", "n1"], nodes="2-4")
    change = "update JobId=12 ExcNodeList=n3,n1 NumNodes=2-4"
    assert calls(scontrol)[1:] == ["requeuehold 12", change, "release 12"]
