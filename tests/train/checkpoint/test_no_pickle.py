"""No file that is written is a pickle, and no file that is read is executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from processes import lehr
from safetensors import safe_open
from small_runs import make_shards, write_config
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from train.checkpoint.manifest import _seal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    config = write_config(folder, make_shards(folder))
    done = lehr("train", config, "parallel.tensor=2", "optim.name=conda")
    assert done.returncode == 0, done.stderr
    return folder


def open_safetensors(path: Path) -> None:
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            assert np.isfinite(file.get_tensor(name)).all(), name


def open_index(path: Path) -> None:
    ends = np.fromfile(path, dtype="<u8")
    assert (np.diff(ends.astype(np.int64)) >= 0).all()
    assert int(ends[-1]) * 2 == path.with_suffix("").stat().st_size


def open_text(path: Path) -> None:
    assert path.read_text(encoding="utf-8").isprintable() or "\n" in path.read_text(encoding="utf-8")


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": open_safetensors,
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".log": open_text,
    ".index": open_index,
    ".ds": lambda path: np.fromfile(path, dtype="<u2").max() < 200,
    "latest": lambda path: (path.parent / path.read_text().strip() / "manifest.json").stat(),
    "tokenizer.json": open_text,  # of these tests' shards: no tokenizer is in it
    "tfevents": lambda path: list(EventFileLoader(str(path)).Load()),
}


def test_every_file_is_what_it_says(made: Path) -> None:
    files = [path for folder in ("runs", "shards") for path in (made / folder).rglob("*") if path.is_file()]
    kinds = set()
    for path in files:
        kind = next((kind for kind in ("tokenizer.json", "latest") if path.name == kind), path.suffix)
        kind = "tfevents" if "tfevents" in path.name else kind
        assert kind in OPENERS, f"{path} is of no kind that is known"
        OPENERS[kind](path)
        kinds.add(kind)
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"), path
    assert kinds == set(OPENERS)


class Bomb:
    """Makes a folder when a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def replace(path: Path, name: str, content: bytes) -> None:
    """Replaces a file of a checkpoint and makes the manifest fit, as an attacker can."""
    manifest = json.loads((path / "manifest.json").read_text())
    (path / name).write_bytes(content)
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.pop("sha256")
    (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": _seal(manifest)}))


FILE = "shard-00001-model-00001-of-00001.safetensors"
PLANTS: dict[str, Callable[[Path, bytes], Any]] = {
    "model.pt": lambda path, bomb: (path / "model.pt").write_bytes(bomb),
    "__0_0.distcp": lambda path, bomb: (path / "__0_0.distcp").write_bytes(bomb),
    ".metadata": lambda path, bomb: (path / ".metadata").write_bytes(bomb),
    "pytorch_model.bin, in the manifest": lambda path, bomb: replace(path, "pytorch_model.bin", bomb),
    "named safetensors": lambda path, bomb: (path / FILE).write_bytes(bomb),
    "named safetensors, in the manifest": lambda path, bomb: replace(path, FILE, bomb),
    "behind a header, in the manifest": lambda path, bomb: replace(path, FILE, struct.pack("<Q", 2) + b"{}" + bomb),
    "named state.json, in the manifest": lambda path, bomb: replace(path, "state.json", bomb),
    "named manifest.json": lambda path, bomb: (path / "manifest.json").write_bytes(bomb),
}


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_pickle_is_refused_and_not_run(plant: str, made: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it was run"
    bomb = pickle.dumps(Bomb(mark))
    run = tmp_path / "runs" / "try"
    shutil.copytree(made / "runs" / "try", run)
    checkpoints = run / "checkpoints"
    for path in checkpoints.glob("step-*"):
        PLANTS[plant](path, bomb)
    lehr("eval", run)
    assert not mark.exists()
    done = lehr("train", run / "config.yaml", f"run.folder={run.parent}")
    assert not mark.exists()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert "checkpoint" in done.stderr
    pickle.loads(bomb)
    assert mark.exists()  # it would have shown
