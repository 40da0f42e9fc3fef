"""`lehr checkpoint list` and `verify`, and the checkpoints that a run retains."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from processes import lehr
from small_runs import make_shards, trajectory, write_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, make_shards(folder), checkpoint={"every_steps": 2, "keep_every_steps": 6})
    done = lehr("train", config, "checkpoint.keep_last=1", "checkpoint.keep_best=1", "evaluate.every_steps=2")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "try"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "try")
    return tmp_path / "try"


@pytest.mark.slow
def test_list_shows_every_checkpoint_and_why_it_is_kept(run: Path) -> None:
    done = lehr("checkpoint", "list", run)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]
    assert header == ["step", "tokens", "held-out loss", "size", "date", "layout", "kept as"]
    losses = {line["step"]: line["held_out/loss"] for line in trajectory(run) if "held_out/loss" in line}
    best = min(losses, key=lambda step: losses[step])
    expected = {6: "every", 12: "last, every"}
    expected[best] = f"{expected[best]}, best" if best in expected else "best"
    assert [int(line[0]) for line in lines] == sorted(expected)
    for line in lines:
        step = int(line[0])
        assert line[1] == f"{step * 8 * 32:,}"
        assert line[2] == f"{losses[step]:.4f}"
        assert line[5] == "1 rank"
        assert line[6] == expected[step]
        assert ("latest" in line) == (step == 12)


def test_verify_of_a_complete_run(run: Path) -> None:
    done = lehr("checkpoint", "verify", run)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(list((run / "checkpoints").glob("step-*")))
    assert all(line.endswith(": complete") for line in done.stdout.splitlines())


def test_verify_names_the_damaged_files(copy: Path) -> None:
    (file,) = (copy / "checkpoints" / "step-00000006").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = lehr("checkpoint", "verify", copy)
    assert done.returncode == 1
    assert "step-00000006: incomplete" in done.stdout
    assert f"{file.name} was altered" in done.stderr
    assert lehr("checkpoint", "verify", copy, "--step", "12").returncode == 0
    assert lehr("checkpoint", "verify", copy, "--step", "6").returncode == 1
    file.unlink()
    listed = lehr("checkpoint", "list", copy)
    assert listed.returncode == 0
    assert f"incomplete: {file.name} is missing" in listed.stdout
    (copy / "checkpoints" / "latest").write_text("step-00000099\n")
    assert "latest names step-00000099, which is not there" in lehr("checkpoint", "verify", copy).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere"], "nowhere is no run folder"),
        (["list", "nowhere"], "nowhere is no run folder"),
        (["verify", "RUN", "--step", "5"], "has no checkpoint of that step; it has those of steps"),
        (["verify"], "Missing argument"),
        (["remove", "RUN"], "No such command"),
    ],
)
def test_mistakes(arguments: list[str], message: str, run: Path) -> None:
    done = lehr("checkpoint", *(str(run) if word == "RUN" else word for word in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
