"""A run folder has one writer: leases in one process, and two real runs in one folder."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import lehr, start_lehr
from small_runs import STEPS, make_shards, steps_taken, trajectory, wait_until, write_config

from settings import UserError
from train.checkpoint.writer_lease import FencedError, WriterLease, check_not_running, read_lease
from train.metrics.jsonl import MetricsFile, read_metrics


def test_a_newer_lease_fences_the_older(tmp_path: Path) -> None:
    old = WriterLease.take(tmp_path / "checkpoints")
    (old.workspace / "ready").mkdir()
    old.check()
    new = WriterLease.take(tmp_path / "checkpoints")
    assert (old.record.token, new.record.token) == (1, 2)
    new.check()
    with pytest.raises(FencedError, match=rf"taken over by process {os.getpid()} on .* \(lease 2\); this process"):
        old.check()
    with pytest.raises(FencedError):
        old.publish(old.workspace / "ready", tmp_path / "checkpoints" / "step-00000001")
    (new.workspace / "ready").mkdir()
    new.publish(new.workspace / "ready", tmp_path / "checkpoints" / "step-00000001")
    with pytest.raises(FencedError):
        old.retire(tmp_path / "checkpoints" / "step-00000001")
    assert (tmp_path / "checkpoints" / "step-00000001").is_dir()


def test_renames_of_an_older_owner_fail_even_past_its_look(tmp_path: Path) -> None:
    """The process is stopped between its check and its write, and woken up after a newer lease was taken."""
    old = WriterLease.take(tmp_path)
    (old.workspace / "latest").write_text("mine")
    (tmp_path / "latest").write_text("before")
    WriterLease.take(tmp_path)
    with pytest.raises(FileNotFoundError):
        os.rename(old.workspace / "latest", tmp_path / "latest")
    with pytest.raises(FileNotFoundError):
        os.rename(tmp_path / "latest", old.workspace / "removed")
    assert (tmp_path / "latest").read_text() == "before"


def test_metrics_of_an_older_owner_lead_nowhere(tmp_path: Path) -> None:
    old = WriterLease.take(tmp_path / "checkpoints")
    ours = MetricsFile(tmp_path / "metrics.jsonl", from_step=0, lease=old)
    ours.append({"step": 1, "loss": 2.0})
    new = WriterLease.take(tmp_path / "checkpoints")
    theirs = MetricsFile(tmp_path / "metrics.jsonl", from_step=1, lease=new)
    with pytest.raises(FencedError):
        ours.append({"step": 2, "loss": 9.0})
    os.write(ours._descriptor, b'{"step": 2, "loss": 9.0}\n')  # past its look
    theirs.append({"step": 2, "loss": 1.5})
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2.0, 1.5]
    with pytest.raises(FencedError):
        ours.rewind(0)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_tokens_grow_past_a_lease_that_cannot_be_read(tmp_path: Path) -> None:
    first = WriterLease.take(tmp_path)
    for content in (b"", b"\xff\x00", b"[]", b'{"token": -5}', b"{" * 10000):
        (tmp_path / "claim.json").write_bytes(content)
        assert read_lease(tmp_path) is None
    first.check()  # its folder says so
    assert WriterLease.take(tmp_path).record.token == 2
    with pytest.raises(FencedError):
        first.check()


def test_a_released_lease_leaves_only_its_record(tmp_path: Path) -> None:
    WriterLease.take(tmp_path).release()
    assert [path.name for path in tmp_path.iterdir()] == ["claim.json"]
    assert WriterLease.take(tmp_path).record.token == 2


def write_lease(folder: Path, **changes: Any) -> None:
    record = WriterLease.take(folder).record.to_plain()
    (folder / "claim.json").write_text(json.dumps({**record, **changes}))


def test_who_is_clearly_alive_is_not_disturbed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        try:
            started = int(Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19])
            write_lease(tmp_path, pid=other.pid, started=started)
            with pytest.raises(UserError, match=f"being trained already, by process {other.pid} on"):
                check_not_running(tmp_path)
            write_lease(tmp_path, pid=other.pid, started=started + 1)  # the number was reused
            check_not_running(tmp_path)
            write_lease(tmp_path, pid=other.pid, started=started, host="elsewhere")
            check_not_running(tmp_path)
            write_lease(tmp_path, pid=other.pid, started=started, boot="before the power cut")
            check_not_running(tmp_path)
            write_lease(tmp_path, pid=other.pid, started=started)
            other.send_signal(signal.SIGSTOP)
            wait_until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            check_not_running(tmp_path)
        finally:
            other.kill()
    check_not_running(tmp_path)
    assert read_lease(tmp_path).host == platform.node()  # type: ignore[union-attr]


def tree_of(pid: int) -> list[int]:
    """Returns a process and all that it started."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *(found for child in children for found in tree_of(int(child)))]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts and "logs" not in path.parts
    }


@pytest.mark.slow
@pytest.mark.parametrize("layout", [[], ["parallel.tensor=2"]], ids=["one rank", "two ranks"])
def test_an_older_process_that_comes_back_writes_nothing(tmp_path: Path, layout: list[str]) -> None:
    config = write_config(tmp_path, make_shards(tmp_path), checkpoint={"every_steps": 5, "keep_last": 2})
    long = "train.steps=100"
    whole = lehr("train", config, "run.name=whole", long, *layout, timeout=280)
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "runs" / "cut"
    with start_lehr("train", config, "run.name=cut", long, *layout) as first:
        wait_until(lambda: steps_taken(run) >= 20)
        second_start = lehr("train", config, "run.name=cut", long, *layout)
        assert second_start.returncode == 2
        assert "is being trained already, by process" in second_start.stderr
        assert "Traceback" not in second_start.stderr
        stopped = tree_of(first.pid)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        with start_lehr("train", config, "run.name=cut", long, *layout) as second:
            began = steps_taken(run)
            wait_until(lambda: steps_taken(run) >= began + 20 or second.poll() is not None)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            _, first_errors = first.communicate(timeout=60)
            _, second_errors = second.communicate(timeout=200)
    assert second.returncode == 0, second_errors
    assert first.returncode == 76, first_errors
    assert "was taken over by process" in first_errors
    assert "Traceback" not in first_errors
    assert trajectory(run) == trajectory(tmp_path / "runs" / "whole")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "claim.json",
        "latest",
        "step-00000095",
        "step-00000100",
    ]


@pytest.mark.slow
def test_an_older_process_that_comes_back_after_the_end_leaves_every_byte(tmp_path: Path) -> None:
    config = write_config(tmp_path, make_shards(tmp_path), train={"steps": 120}, checkpoint={"every_steps": 5})
    run = tmp_path / "runs" / "try"
    with start_lehr("train", config) as first:
        wait_until(lambda: steps_taken(run) >= 10)
        first.send_signal(signal.SIGSTOP)
        second = lehr("train", config, timeout=200)
        assert second.returncode == 0, second.stderr
        before = snapshot(run)
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 76
    assert "was taken over by process" in errors
    assert snapshot(run) == before
    assert steps_taken(run) == 120
    assert STEPS < 120
