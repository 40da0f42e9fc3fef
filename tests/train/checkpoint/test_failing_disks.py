"""Disks that are full or read-only, files that vanish, rights that lack: one message, nothing half-written.

On real file systems: a small tmpfs is filled, remounted, a folder made immutable. Needs root; says so where it cannot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import lehr, start_lehr
from small_runs import STEPS, make_shards, steps_taken, trajectory, wait_until, write_config

from settings import RunError
from train.checkpoint.discovery import problems_of, step_folders
from train.metrics.jsonl import MetricsFile, read_metrics


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """An undisturbed run of two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    done = lehr("train", write_config(folder, shards), "parallel.tensor=2")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "try"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mounts a tmpfs of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Writes a file that takes all room but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def nothing_is_half_written(run: Path) -> None:
    checkpoints = run / "checkpoints"
    for path in step_folders(checkpoints):
        assert problems_of(path) == []
    if (checkpoints / "latest").exists():
        assert (checkpoints / (checkpoints / "latest").read_text().strip()).is_dir()
    for lease in checkpoints.glob(".claim-*"):
        assert list(lease.iterdir()) == []
    assert list(run.glob(".*.partial")) == []
    if (run / "metrics.jsonl").exists():
        text = (run / "metrics.jsonl").read_text()
        assert not text or text.endswith("\n")
        assert len(read_metrics(run / "metrics.jsonl")) == len(
            {line["step"] for line in read_metrics(run / "metrics.jsonl")}
        )


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_save(tmp_path: Path, disk: Path, shards: Path, whole: Path) -> None:
    config = write_config(tmp_path, shards, run={"folder": str(disk)}, model={"hidden_size": 64, "ffn_size": 96})
    unbroken = lehr("train", config, f"run.folder={tmp_path}", "run.name=unbroken", "parallel.tensor=2")
    assert unbroken.returncode == 0, unbroken.stderr
    one = sum(f.stat().st_size for f in (tmp_path / "unbroken/checkpoints/step-00000004").iterdir())
    fill(disk, leave=int(2.5 * one))  # the third does not fit
    run = disk / "try"
    done = lehr("train", config, "parallel.tensor=2")
    assert done.returncode == 1, done.stderr
    assert "saving a checkpoint failed" in done.stderr
    assert "No space left on device" in done.stderr
    assert "shard-0000" in done.stderr or "manifest" in done.stderr
    assert "rank " in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in step_folders(run / "checkpoints")] == ["step-00000004", "step-00000008"]
    nothing_is_half_written(run)
    remount(disk, "size=40m")
    again = lehr("train", config, "parallel.tensor=2")
    assert again.returncode == 0, again.stderr
    assert trajectory(run) == trajectory(tmp_path / "unbroken")


@pytest.mark.slow
def test_a_disk_that_fills_up_between_saves(tmp_path: Path, disk: Path, shards: Path) -> None:
    """Neither metrics.jsonl nor TensorBoard's file nor the log can grow."""
    config = write_config(tmp_path, shards, run={"folder": str(disk)}, train={"steps": 5000})
    run = disk / "try"
    with start_lehr("train", config, "checkpoint.every_steps=10", "checkpoint.keep_last=1") as process:
        wait_until(lambda: steps_taken(run) >= 15 and bool(step_folders(run / "checkpoints")))
        fill(disk, leave=0)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 1, errors
    assert "No space left on device" in errors
    assert "Traceback" not in errors
    assert step_folders(run / "checkpoints")
    nothing_is_half_written(run)
    (disk / "filler").unlink()
    last = steps_taken(run)
    again = lehr("train", config, f"train.steps={last + 3}", "checkpoint.every_steps=10")
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, last + 4))


def test_a_line_of_metrics_is_written_whole_or_not_at_all(disk: Path) -> None:
    file = MetricsFile(disk / "metrics.jsonl", from_step=0)
    fill(disk, leave=4096)
    written = 0

    def write_on() -> None:
        nonlocal written
        for written in range(100_000):
            file.append({"step": written + 1, "loss": 1 / 3})

    with pytest.raises(RunError, match=r"writing metrics failed: .*metrics.jsonl: No space left on device; make room"):
        write_on()
    lines = (disk / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == written
    assert all(line.endswith("}\n") for line in lines)
    (disk / "filler").unlink()
    file.append({"step": written + 1, "loss": 1 / 3})
    file.close()
    assert [line["step"] for line in read_metrics(disk / "metrics.jsonl")] == list(range(1, written + 2))


def test_a_read_only_disk_is_refused_before_anything_is_started(tmp_path: Path, disk: Path, shards: Path) -> None:
    config = write_config(tmp_path, shards, run={"folder": str(disk / "runs")})
    remount(disk, "ro")
    done = lehr("train", config, "parallel.data=2")
    assert done.returncode == 2, done.stderr
    assert f"{disk} is on a file system mounted read-only" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_folder_that_becomes_read_only(tmp_path: Path, shards: Path) -> None:
    """The immutable attribute takes the right away; it binds root as well."""
    config = write_config(tmp_path, shards, train={"steps": 5000}, checkpoint={"every_steps": 10, "keep_last": 2})
    run = tmp_path / "runs" / "try"
    with start_lehr("train", config, "parallel.data=2") as process:
        wait_until(lambda: (run / "checkpoints" / "step-00000010").exists())
        folders = [str(path) for path in [run / "checkpoints", *(run / "checkpoints").glob(".claim-*")]]
        made = subprocess.run(["chattr", "+i", *folders], capture_output=True, text=True, check=False)
        if made.returncode:
            subprocess.run(["chattr", "-i", *folders], capture_output=True, check=False)
            process.kill()
            process.communicate()
            pytest.skip(f"no folder can be made immutable here: {made.stderr.strip()}")
        try:
            _, errors = process.communicate(timeout=100)
        finally:
            subprocess.run(["chattr", "-i", *folders], check=True)
    assert process.returncode == 1, errors
    assert "saving a checkpoint failed" in errors
    assert "Operation not permitted; give this user the right to" in errors
    assert "Traceback" not in errors
    last = step_folders(run / "checkpoints")[-1]
    assert problems_of(last) == []


@pytest.mark.slow
def test_a_user_without_the_right_is_refused() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    code = (
        "import os, sys; from pathlib import Path; from train.run_folder.resume_check import check_writable\n"
        "os.setgid(65534); os.setuid(65534); check_writable(Path(sys.argv[1]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", code, f"{folder}/runs/try"], capture_output=True, text=True, check=False
        )
    assert f"{folder} cannot be written to by this user" in done.stderr


@pytest.mark.slow
def test_a_shard_that_vanishes(tmp_path: Path, shards: Path, whole: Path) -> None:
    """A run that has it open goes on to its end; the next start says which file is gone."""
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    config = write_config(tmp_path, own, train={"steps": 200})
    run = tmp_path / "runs" / "try"
    (file,) = (own / "beta" / "train").glob("*.ds")
    with start_lehr("train", config) as process:
        wait_until(lambda: steps_taken(run) >= 3)
        file.unlink()
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    done = lehr("train", config, "train.steps=210")
    assert done.returncode == 2
    assert f"shard {file} cannot be opened (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr
    assert STEPS < 200
