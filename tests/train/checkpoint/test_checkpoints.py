"""Damage of every kind in a checkpoint is found and named, and the newest complete checkpoint is loaded."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import RanksFailedError, run_ranks
from safetensors import safe_open

from settings import UserError
from train.checkpoint.discovery import latest_checkpoint, problems_of
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.manifest import IncompleteCheckpointError, read_manifest
from train.checkpoint.weights_only import PREFIX, write_first_checkpoint
from train.checkpoint.writer_lease import WriterLease
from train.config import CheckpointConfig
from train.state import TrainState

TRIAL = Trial(parallel={"tensor": 2}, model={"num_layers": 1, "hidden_size": 16, "ffn_size": 24})
SMALL = Trial(model=TRIAL.model)
FILE = "shard-00002-model-00001-of-00001.safetensors"


def save_on_a_rank(folder: Path, trial: Trial, steps: list[int]) -> None:
    """Saves the initial weights as the checkpoints of several steps."""
    mesh, parts = start(trial)
    lease = WriterLease.take(folder) if mesh.rank == 0 else None
    checkpoints = CheckpointManager(
        folder,
        mesh,
        model=trial.model_config().to_plain(),
        tokenizer="a" * 64,
        layout={"tensor": mesh.tensor.size},
        retention=CheckpointConfig(keep_last=9),
        lease=lease,
    )
    for step in steps:
        checkpoints.save(parts.engine, TrainState(step=step, tokens=10 * step))
    checkpoints.wait()
    dist.barrier()


def load_on_a_rank(folder: Path, trial: Trial, tokenizer: str = "") -> int | None:
    """Returns the step of the loaded checkpoint."""
    mesh, parts = start(trial)
    checkpoints = CheckpointManager(folder, mesh, model=trial.model_config().to_plain(), tokenizer=tokenizer)
    state = checkpoints.load_latest(parts.engine)
    return None if state is None else state.step


def losses_from_imported_weights(folder: Path, trial: Trial) -> list[list[float]]:
    """Trains three steps from a checkpoint without optimizer state, loads it again, and trains them again."""
    mesh, parts = start(trial)
    state = parts.engine.state(saving=True)
    weights = {key.removeprefix(PREFIX): each.tensor.cpu() for key, each in state.items() if key.startswith(PREFIX)}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    model = trial.model_config().to_plain()
    write_first_checkpoint(folder, shapes, weights.values(), model=model, tokenizer="")
    checkpoints = CheckpointManager(folder, mesh, model=model)
    found: list[list[float]] = []
    for _ in range(2):
        checkpoints.load_latest(parts.engine)
        batches = islice(global_batches(), 3)
        found.append(
            [parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=0.01).nll for batch in batches]
        )
    return found


def tell_later_on_a_rank(folder: Path) -> None:
    """Saves steps 10 and 20; the held-out loss of step 20 comes later and is the best."""
    mesh, parts = start(Trial(model=TRIAL.model, parallel={"data": 2}))
    checkpoints = CheckpointManager(
        folder,
        mesh,
        model={},
        retention=CheckpointConfig(keep_last=1, keep_best=1),
        lease=WriterLease.take(folder) if mesh.rank == 0 else None,
    )
    checkpoints.save(parts.engine, TrainState(step=10).with_held_out_loss(2.0, on={"sequences": 8}))
    stopped = TrainState(step=20)
    checkpoints.save(parts.engine, stopped)
    checkpoints.wait()
    dist.barrier()
    if mesh.rank == 0:
        assert {path.name for path in folder.glob("step-*")} == {"step-00000010", "step-00000020"}
    dist.barrier()
    checkpoints.add_held_out_loss(stopped.with_held_out_loss(1.5, on={"sequences": 8}))


def save_on_a_slow_disk(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the complete checkpoints after each of two saves. The disk flushes nothing until the second save."""
    mesh, parts = start(SMALL)
    flush, second_save_begins = os.fsync, threading.Event()

    def slow_flush(descriptor: int) -> None:
        assert second_save_begins.wait(100)
        time.sleep(0.25)
        flush(descriptor)

    lease = WriterLease.take(folder)
    os.fsync = slow_flush
    checkpoints = CheckpointManager(folder, mesh, model=SMALL.model_config().to_plain(), lease=lease)
    complete: list[list[str]] = []
    for step in (1, 2):
        for parameter in parts.chunks[0].parameters():
            parameter.data.fill_(step)
        if step == 2:
            second_save_begins.set()
        checkpoints.save(parts.engine, TrainState(step=step))
        complete.append([path.name for path in sorted(folder.glob("step-*"))])
    checkpoints.wait()
    return complete[0], complete[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    run_ranks(2, save_on_a_rank, folder, TRIAL, [10, 20, 30])
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoints"
    shutil.copytree(saved, copy)
    return copy


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


# What is done to a checkpoint, and what must be said of it.
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a truncated file": (lambda path: cut(path / FILE, 100), f"{FILE} has 100 bytes instead of"),
    "an empty file": (lambda path: cut(path / FILE, 0), f"{FILE} has 0 bytes instead of"),
    "a longer file": (lambda path: lengthen(path / FILE), f"{FILE} has"),
    "a flipped bit of a value": (lambda path: flip(path / FILE, -1), f"{FILE} was altered"),
    "a flipped bit of a header": (lambda path: flip(path / FILE, 20), f"{FILE} was altered"),
    "a missing file": (lambda path: (path / FILE).unlink(), f"{FILE} is missing"),
    "a missing state": (lambda path: (path / "state.json").unlink(), "state.json is missing"),
    "a flipped bit of the state": (lambda path: flip(path / "state.json", 12), "state.json was altered"),
    "a missing manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    "a torn manifest": (lambda path: cut(path / "manifest.json", 300), "manifest.json is not readable"),
    "an empty manifest": (lambda path: cut(path / "manifest.json", 0), "manifest.json is not readable"),
    "a manifest of zeros": (lambda path: (path / "manifest.json").write_bytes(bytes(999)), "manifest.json is not"),
    "an empty folder": (lambda path: [file.unlink() for file in path.iterdir()], "manifest.json is missing"),
    "a file in place of another": (
        lambda path: shutil.copy(path / FILE.replace("00002", "00001", 1), path / FILE),
        f"{FILE} ",
    ),
    "a file too many": (lambda path: shutil.copy(path / FILE, path / "x.safetensors"), "x.safetensors does not belong"),
    "a link": (
        lambda path: ((path / FILE).rename(path.parent / "moved"), (path / FILE).symlink_to("../moved")),
        f"{FILE} is missing",
    ),
    "a renamed folder": (
        lambda path: (shutil.rmtree(path), shutil.copytree(path.with_name("step-00000010"), path)),
        "manifest.json is of step 10",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_one_is_taken_and_the_damage_is_named(damage: str, folder: Path) -> None:
    apply, said = DAMAGES[damage]
    apply(folder / "step-00000030")
    warnings: list[str] = []
    assert latest_checkpoint(folder, warn=warnings.append) == folder / "step-00000020"
    (warning,) = warnings
    assert "step-00000030 is not complete" in warning
    assert said in warning
    assert "going on from step-00000020" in warning


def test_two_damaged_ones_are_both_named(folder: Path) -> None:
    cut(folder / "step-00000030" / FILE, 5)
    flip(folder / "step-00000020" / "state.json", 3)
    warnings: list[str] = []
    assert latest_checkpoint(folder, warn=warnings.append) == folder / "step-00000010"
    assert [name in text for name, text in zip(("step-00000030", "step-00000020"), warnings, strict=True)] == [True] * 2


def test_an_undamaged_one_gives_no_warning(folder: Path) -> None:
    warnings: list[str] = []
    assert latest_checkpoint(folder, warn=warnings.append) == folder / "step-00000030"
    assert warnings == []


def test_when_none_is_whole_all_are_named_and_nothing_is_begun_anew(folder: Path) -> None:
    for step in (10, 20, 30):
        cut(folder / f"step-{step:08d}" / FILE, step)
    with pytest.raises(UserError, match="no checkpoint of this run is complete") as caught:
        latest_checkpoint(folder)
    for step in (10, 20, 30):
        assert f"{FILE} has {step} bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "taken", "said"),
    [
        (None, 30, "latest is missing"),
        ("", 30, "latest names no checkpoint"),
        ("\x00\xff garbage", 30, "latest names no checkpoint"),
        ("../../etc", 30, "latest names no checkpoint"),
        ("step-00000040\n", 30, "latest names step-00000040, which is not there"),
        ("step-00000020\n", 20, None),  # wound back by hand
    ],
)
def test_what_latest_says(content: str | None, taken: int, said: str | None, folder: Path) -> None:
    latest = folder / "latest"
    latest.unlink() if content is None else latest.write_bytes(content.encode("latin-1"))
    warnings: list[str] = []
    assert latest_checkpoint(folder, warn=warnings.append) == folder / f"step-{taken:08d}"
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


def test_no_checkpoint_is_none_but_a_latest_without_one_is_refused(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / ".claim-00000001").mkdir()
    (tmp_path / ".claim-00000001" / "step-00000010").mkdir()  # what a killed run was writing
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "latest").write_text("step-00000010\n")
    with pytest.raises(UserError, match="holds no checkpoint, but latest names step-00000010"):
        latest_checkpoint(tmp_path)


@pytest.mark.slow
def test_every_bit_of_a_manifest_counts(folder: Path) -> None:
    path = folder / "step-00000030" / "manifest.json"
    content = path.read_bytes()
    rng = random.Random(0)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << rng.randrange(8)
        if _same_json(content, bytes(altered)):
            continue  # one blank for another
        path.write_bytes(altered)
        with pytest.raises(IncompleteCheckpointError):
            read_manifest(path.parent)


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_all_ranks_agree_on_the_verdict(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cut(folder / "step-00000030" / FILE, 100)
    flip(folder / "step-00000020" / FILE, -1)  # found by the one rank that hashes this file
    assert run_ranks(2, load_on_a_rank, folder, TRIAL) == [10, 10]
    for step in (10,):
        flip(folder / f"step-{step:08d}" / FILE, -1)
    with pytest.raises(RanksFailedError) as caught:
        run_ranks(2, load_on_a_rank, folder, TRIAL)
    assert str(caught.value).count("UserError: no checkpoint of this run is complete") == 2


def test_what_changes_no_result_is_the_same_model(folder: Path) -> None:
    chunked = {**TRIAL.model, "objective": {"name": "next_token", "chunk_tokens": 7}}
    assert run_ranks(2, load_on_a_rank, folder, Trial(parallel=TRIAL.parallel, model=chunked)) == [30, 30]
    penalised = Trial(parallel=TRIAL.parallel, model={**TRIAL.model, "objective": {"name": "next_token", "z_loss": 1}})
    with pytest.raises(RanksFailedError, match=r"model\.objective\.z_loss: 0\.0 there, 1\.0 here"):
        run_ranks(2, load_on_a_rank, folder, penalised)


def test_another_model_or_tokenizer_is_refused_with_what_differs(folder: Path) -> None:
    wider = Trial(parallel=TRIAL.parallel, model={**TRIAL.model, "ffn_size": 32})
    with pytest.raises(RanksFailedError) as caught:
        run_ranks(2, load_on_a_rank, folder, wider)
    text = str(caught.value)
    assert "is of another model, tokenizer or optimizer" in text
    assert "model.ffn_size: 24 there, 32 here" in text
    assert "layers.0.mlp" in text
    with pytest.raises(RanksFailedError, match=r"tokenizer: SHA-256 a{16}… there, b{16}… here"):
        run_ranks(2, load_on_a_rank, folder, TRIAL, "b" * 64)


def test_files_are_safetensors_to_everybody(folder: Path) -> None:
    path = folder / "step-00000030"
    manifest = read_manifest(path)
    assert problems_of(path) == []
    assert (manifest.step, manifest.tokens, manifest.tokenizer, manifest.layout) == (30, 300, "a" * 64, {"tensor": 2})
    rows = 0
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            weight = opened.get_tensor("model.layers.0.attention.q.weight")
            assert weight.dtype.is_floating_point
            rows += weight.shape[0]
    assert (rows, weight.shape[1]) == manifest.tensors["model.layers.0.attention.q.weight"]


def test_a_held_out_loss_that_comes_later_reaches_the_manifest_and_counts_for_what_is_kept(tmp_path: Path) -> None:
    run_ranks(2, tell_later_on_a_rank, tmp_path)
    (path,) = tmp_path.glob("step-*")
    assert path.name == "step-00000020"
    manifest = read_manifest(path)
    assert (manifest.held_out_loss, manifest.held_out_on) == (1.5, {"sequences": 8})
    assert problems_of(path) == []


@pytest.mark.slow
def test_a_disk_slower_than_the_interval_holds_the_loop_and_mixes_nothing_up(tmp_path: Path) -> None:
    ((after_first, after_second),) = run_ranks(1, save_on_a_slow_disk, tmp_path)
    assert after_first == []  # the loop went on while the first was being written
    assert after_second == ["step-00000001"]  # the second began only when the first was complete
    for step in (1, 2):
        path = tmp_path / f"step-{step:08d}"
        assert problems_of(path) == []
        with safe_open(path / "shard-00001-model-00001-of-00001.safetensors", framework="np") as file:
            for name in read_manifest(path).tensors:
                if name.startswith("model."):
                    assert (file.get_tensor(name) == step).all(), name


@pytest.mark.parametrize("parallel", [{}, {"zero": 2}, {"zero": 3}], ids=["owners", "ZeRO 2", "ZeRO 3"])
def test_back_at_imported_weights_the_optimizer_starts_afresh(tmp_path: Path, parallel: dict[str, int]) -> None:
    trial = Trial(model=TRIAL.model, parallel=parallel)
    ((first, again),) = run_ranks(1, losses_from_imported_weights, tmp_path / "checkpoints", trial)
    assert again == first
    assert len(set(first)) == 3
