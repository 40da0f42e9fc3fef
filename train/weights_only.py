"""A checkpoint's weights without an engine: one after the other, whole, whatever layout cut them; and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from settings.files import file_sha256, flush_folder, write_json, write_text
from train.manifest import STATE_FILE_NAME, FileRecord, Manifest, write_manifest
from train.state import TrainState
from train.tensor_files import Shape, TensorFiles, write_tensors

PREFIX = "model."
_FILE = "shard-00001-model-00001-of-00001.safetensors"  # as the first of a single rank


class Weights:
    """The weights of a whole checkpoint, by global name without "model."."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._files = TensorFiles(path / name for name in manifest.files if name.endswith(".safetensors"))
        self.shapes = {
            name.removeprefix(PREFIX): shape for name, shape in manifest.tensors.items() if name.startswith(PREFIX)
        }

    def read(self, name: str) -> Tensor:
        """One whole tensor, float32."""
        return self._files.read(PREFIX + name)


def write_first_checkpoint(
    folder: Path, shapes: Mapping[str, Shape], tensors: Iterable[Tensor], *, model: Mapping[str, Any], tokenizer: str
) -> None:
    """Make `folder` the checkpoints of a run that has taken no step: given weights, and no state of an optimizer.

    `tensors` come in the order of `shapes`, and only one is in memory at a time. The folder must not be in use.
    """
    state = TrainState()
    path = folder / f"step-{state.step:08d}"
    path.mkdir(parents=True)
    named = {PREFIX + name: shape for name, shape in shapes.items()}
    places = {name: {"saved_offsets": [0] * len(shape)} for name, shape in named.items()}
    write_tensors(
        path / _FILE,
        named,
        tensors,
        dtype=torch.float32,
        metadata={"DCP_SHARDING_INFO": json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"},
    )
    write_json(path / STATE_FILE_NAME, state.to_plain())
    files = {
        name: FileRecord(bytes=(path / name).stat().st_size, sha256=file_sha256(path / name))
        for name in (_FILE, STATE_FILE_NAME)
    }
    manifest = Manifest(step=state.step, tensors=named, files=files, model=dict(model), tokenizer=tokenizer)
    write_manifest(path, manifest)
    flush_folder(folder)
    write_text(folder / "latest", path.name + "\n")
