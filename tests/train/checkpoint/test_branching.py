"""The first checkpoint of a branch: complete, without the space of a copy, and independent of the other run."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from settings import UserError
from train.checkpoint.branching import begin_with_checkpoint, find_checkpoint
from train.checkpoint.discovery import latest_checkpoint, problems_of, read_state
from train.checkpoint.manifest import read_manifest
from train.checkpoint.weights_only import Weights, write_weights
from train.checkpoint.writer_lease import WriterLease
from train.state import TrainState


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The checkpoint of step 7 of a run."""
    path = tmp_path / "parent" / "checkpoints" / "step-00000007"
    path.mkdir(parents=True)
    state = TrainState(step=7, tokens=70, optimizer_steps=7, left_out=((2, 3),))
    tensors = [torch.arange(6.0).reshape(2, 3), torch.tensor([1.5])]
    write_weights(path, {"a": (2, 3), "b": (1,)}, tensors, state=state, model={}, tokenizer="t")
    return path


def begun(source: Path, folder: Path, *, keep_optimizer: bool) -> Path:
    lease = WriterLease.take(folder)
    begin_with_checkpoint(source, lease, keep_optimizer=keep_optimizer)
    lease.release()
    found = latest_checkpoint(folder)
    assert found is not None
    assert found.name == source.name
    assert problems_of(found) == []
    return found


def test_a_branch_has_hard_links_and_outlives_the_other_run(source: Path, tmp_path: Path) -> None:
    state = read_state(source)
    path = begun(source, tmp_path / "branch", keep_optimizer=True)
    assert {file.name: file.stat().st_ino for file in path.iterdir()} == {
        file.name: file.stat().st_ino for file in source.iterdir()
    }
    shutil.rmtree(source)
    assert problems_of(path) == []
    assert read_state(path) == state


def test_files_are_copied_where_there_are_no_hard_links(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    path = begun(source, tmp_path / "branch", keep_optimizer=True)
    assert not {file.stat().st_ino for file in path.iterdir()} & {file.stat().st_ino for file in source.iterdir()}


def test_without_the_optimizer_the_weights_and_the_position_in_the_data_stay(source: Path, tmp_path: Path) -> None:
    path = begun(source, tmp_path / "branch", keep_optimizer=False)
    assert read_state(path) == read_state(source).model_copy(update={"optimizer_steps": 0})
    manifest = read_manifest(path)
    assert (manifest.tokens, manifest.tokenizer) == (70, "t")
    assert torch.equal(Weights(path, manifest).read("a"), torch.arange(6.0).reshape(2, 3))


def test_a_missing_step_and_a_torn_checkpoint_are_named(source: Path) -> None:
    folder = source.parent
    with pytest.raises(UserError, match=r"has no checkpoint of step 8; it has those of steps 7"):
        find_checkpoint(folder, 8)
    assert find_checkpoint(folder, None)[0] == find_checkpoint(folder, 7)[0] == source
    file = next(source.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"step-00000007 is not complete"):
        find_checkpoint(folder, 7)
    with pytest.raises(UserError, match=r"(?s)no checkpoint of .* is complete:.*bytes instead of"):
        find_checkpoint(folder, None)
