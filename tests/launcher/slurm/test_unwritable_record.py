"""An attempt on a batch host that cannot write into the run folder: the job comes back without that node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.processes.slurm import SlurmJob
from launcher.slurm.attempt import Attempt

# Stand-ins for Slurm's commands, which know one job on two of three nodes.
SCONTROL = """#!/bin/bash
case "$*" in
    "-o show job 12")
        echo JobId=12 JobState=RUNNING Reason=None Restarts=0 NodeList=n[1-2] "ExcNodeList=(null)" Partition=main ;;
    "show hostnames n[1-2]") echo n1; echo n2 ;;
    *) echo "$*" >> "$0.calls" ;;
esac
"""
SINFO = "#!/bin/bash\necho n1 mixed; echo n2 mixed; echo n3 idle\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose record of attempts leads into a folder that is not there: reading finds none, and writing fails."""
    for name, text in (("scontrol", SCONTROL), ("sinfo", SINFO)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    folder = tmp_path / "run" / "slurm"
    folder.mkdir(parents=True)
    record = {"job": "12", "nodes": "2", "max_failures": 3, "output": str(folder / "12.out")}
    (folder / "job.json").write_text(json.dumps(record))
    (folder / "attempts.jsonl").symlink_to(tmp_path / "gone" / "attempts.jsonl")
    return folder.parent


def test_its_end_puts_the_job_back_and_excludes_the_node(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert Attempt(run, SlurmJob("12", 1, "n1")).end(1) == 0
    calls = (run.parent / "scontrol.calls").read_text().splitlines()
    assert calls == ["requeuehold 12", "update JobId=12 ExcNodeList=n1 NumNodes=2", "release 12"]
    out = capfd.readouterr().out
    assert f"warning: {run}/slurm/attempts.jsonl cannot be written on n1: No such file or directory" in out
    assert "the job goes back into the queue: the run has failed" in out


def test_its_begin_ends_the_job_because_starts_without_a_count_would_go_on_for_ever(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Attempt(run, SlurmJob("12", 1, "n1")).begin() == 1
    assert capfd.readouterr().out.endswith("the job ends: its starts cannot be counted\n")
