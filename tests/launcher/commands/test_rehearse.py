"""`lehr rehearse`: a small run end to end, and mistakes with the message of `lehr train`, with no trace of either."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked_lehr import ForkedLehr
from processes import lehr, start_lehr
from small_runs import slow_data, wait_until

from launcher.exit_codes import STOPPED_EARLY
from train.metrics.jsonl import read_metrics


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def rehearse(config: Path, temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lehr("rehearse", config, *arguments, env={"TMPDIR": str(temporary)})


def with_values(config: Path, **sections: dict[str, Any]) -> Path:
    plain = json.loads(config.read_text())
    config.write_text(
        json.dumps({key: {**plain.get(key, {}), **sections.get(key, {})} for key in {**plain, **sections}})
    )
    return config


# What a cluster has and this machine does not: no mistake here, but a translation.
OF_A_CLUSTER: dict[str, dict[str, Any]] = {
    "model": {"num_layers": 8, "hidden_size": 512, "num_heads": 16, "num_kv_heads": 4, "ffn_size": 1024},
    "parallel": {"tensor": 2, "data": 2, "sequence": True},
    "schedule": {"warmup_steps": 200},
    "train": {"steps": 5000, "precision": "bfloat16", "attention": "flash", "compile": True, "device": "cuda"},
}


@pytest.mark.slow
def test_four_ranks_come_up_train_resume_in_another_layout_and_evaluate(config: Path, temporary: Path) -> None:
    with_values(config, **OF_A_CLUSTER)
    result = rehearse(config, temporary, "--keep")
    assert result.returncode == 0, result.stderr
    out = result.stdout
    cost = r"The rehearsal of try takes about \d+ s on .* cores?, and \d+ MiB of memory: 4 and then 2 ranks\."
    assert re.search(cost, out)
    assert 'train.attention: "flash" -> "auto"' in out
    assert "model.hidden_size: 512 -> 32" in out
    assert "The precision bfloat16" in out[out.index("It has not proved") :]
    assert not (config.parent / "runs").exists()
    # The kept folder holds both runs: the first in the layout of the config, the second a branch of it in another.
    (kept,) = temporary.iterdir()
    assert str(kept) in out
    first, second = (read_metrics(kept / name / "metrics.jsonl") for name in ("first-layout", "second-layout"))
    steps = [line for line in first if "loss" in line]
    again = next(line for line in reversed(second) if "loss" in line)  # the branch has the lines of its parent too
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert (again["step"], again["batch_hash"]) == (3, steps[2]["batch_hash"])
    assert again["seconds_per_step"] != steps[2]["seconds_per_step"]  # it was taken once more
    assert again["loss"] == pytest.approx(steps[2]["loss"], rel=1e-5)
    assert "step 3 had the same loss and gradient norm there" in out
    assert steps[0]["lr"] == pytest.approx(3e-3 / 200)  # of the schedule of the whole run
    records = [json.loads((kept / name / "run.json").read_text()) for name in ("first-layout", "second-layout")]
    assert [record["starts"][-1]["ranks"] for record in records] == [4, 2]


@pytest.mark.slow
def test_the_first_batch_is_that_which_the_run_will_record(config: Path, temporary: Path) -> None:
    result = rehearse(config, temporary)
    assert result.returncode == 0, result.stderr
    assert not list(temporary.iterdir())
    (batch_hash,) = re.findall(r"batch_hash (\w+) at step 1", result.stdout)
    assert lehr("train", config, "train.stop_at_step=1").returncode == 0
    assert read_metrics(config.parent / "runs/try/metrics.jsonl")[0]["batch_hash"] == batch_hash


def broken_layout(config: Path, shards: Path) -> None:
    with_values(config, parallel={"tensor": 3})


def without_a_shard(config: Path, shards: Path) -> None:
    shutil.copytree(shards, config.parent / "shards")
    next((config.parent / "shards/alpha/train").glob("*.ds")).unlink()
    with_values(config, data={"shards": str(config.parent / "shards")})


def without_shards(config: Path, shards: Path) -> None:
    with_values(config, data={"shards": str(config.parent / "absent")})


def misspelt(config: Path, shards: Path) -> None:
    with_values(config, optim={"learning_rate": 1})


def warms_up_for_too_long(config: Path, shards: Path) -> None:
    with_values(config, schedule={"warmup_steps": 20})


def small_vocabulary(config: Path, shards: Path) -> None:
    with_values(config, model={"vocab_size": 100})


@pytest.mark.parametrize(
    "break_it", [broken_layout, without_a_shard, without_shards, misspelt, warms_up_for_too_long, small_vocabulary]
)
def test_a_mistake_has_the_message_of_train_and_leaves_nothing(
    break_it: Any, config: Path, shards: Path, temporary: Path
) -> None:
    break_it(config, shards)
    rehearsed, trained = rehearse(config, temporary, "--keep"), lehr("train", config)
    assert (rehearsed.returncode, trained.returncode) == (2, 2)
    assert rehearsed.stderr == trained.stderr
    assert rehearsed.stderr.startswith("error: ")
    assert not list(temporary.iterdir())
    assert not (config.parent / "runs").exists()


def test_it_is_no_rank_of_another_launcher(config: Path, temporary: Path) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    result = lehr("rehearse", config, env={"TMPDIR": str(temporary), **place})
    assert result.returncode == 2
    assert "starts its ranks itself" in result.stderr


BROKEN = """
import launcher.commands.rehearse as command
def rehearse(path, overrides, folder, *, most_ranks):
    (folder / "first-layout.yaml").write_text("")
    raise RuntimeError("something is broken")
command._rehearse = rehearse
"""


def test_the_folder_stays_after_an_error_that_nobody_expected(config: Path, temporary: Path) -> None:
    result = lehr("rehearse", config, before=BROKEN, env={"TMPDIR": str(temporary)})
    assert result.returncode == 1
    assert "RuntimeError: something is broken" in result.stderr
    (kept,) = temporary.iterdir()
    assert f"are in {kept}" in result.stdout


def start_slowly(config: Path, temporary: Path) -> ForkedLehr:
    """Starts a rehearsal on two ranks and returns while they train: each step takes seconds."""
    with_values(config, parallel={"data": 2})
    process = start_lehr("rehearse", config, before=slow_data(2.0), env={"TMPDIR": str(temporary)})
    wait_until(lambda: any(temporary.glob("*/first-layout/run.json")))
    return process


@pytest.mark.slow
def test_a_stop_ends_the_rehearsal_and_removes_its_folder(config: Path, temporary: Path) -> None:
    process = start_slowly(config, temporary)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode in (STOPPED_EARLY, 128 + signal.SIGTERM), errors
    assert "the rehearsal was stopped" in errors
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_a_rank_that_dies_is_named_and_the_folder_with_its_log_stays(config: Path, temporary: Path) -> None:
    process = start_slowly(config, temporary)
    rank = max(psutil.Process(process.pid).children(), key=lambda child: child.pid)
    rank.kill()
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "rank 1 was killed by SIGKILL" in errors
    assert "the rehearsal failed" in errors
    (kept,) = temporary.iterdir()
    assert f"are in {kept}" in out
    assert (kept / "first-layout/logs/rank-00001.log").is_file()
