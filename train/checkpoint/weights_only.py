"""A checkpoint's weights without an engine: full tensors, read and written one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.parameter import allocate
from parallel.mesh import Axis
from parallel.parameter_shards import ParameterShard, shard_of
from settings import UserError
from settings.files import flush_folder, write_json, write_text
from train.checkpoint.discovery import LATEST
from train.checkpoint.manifest import STATE_FILE_NAME, FileRecord, Manifest, folder_name, write_manifest
from train.checkpoint.resharding import TensorFiles
from train.checkpoint.safetensors_file import Shape, slices_metadata, write_safetensors
from train.state import TrainState

PREFIX = "model."
_FILE = "shard-00001-model-00001-of-00001.safetensors"  # as the first of a single rank


class Weights:
    """The weights of a complete checkpoint, by global name without "model."."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._files = TensorFiles(manifest.tensor_files(path))
        self.shapes = {
            name.removeprefix(PREFIX): shape for name, shape in manifest.tensors.items() if name.startswith(PREFIX)
        }

    def fill(
        self,
        shards: Sequence[ParameterShard],
        tensor: Axis,
        dtype: torch.dtype,
        device: torch.device,
        *,
        all_layers: bool,
    ) -> None:
        """Loads this rank's shards of the weights into parameters on the meta device, which then are in `dtype`.

        It takes no more memory than that of the shards and of one full tensor. Raises UserError if they are those of
        another model; with `all_layers`, also if there are other tensors.
        """
        shapes = {shard.name: shard.shape for shard in shards}
        names = {**shapes, **self.shapes} if all_layers else shapes
        if differing := [name for name in names if shapes.get(name) != self.shapes.get(name)]:
            name = differing[0]
            raise UserError(
                f"{len(differing)} tensors are not those of the model that manifest.json names, such as {name}: "
                f"{self.shapes.get(name, 'absent')} there, {shapes.get(name, 'absent')} in the model"
            )
        for shard in shards:
            own = shard_of(self.read(shard.name), shard.dim, tensor)
            allocate(shard.parameter, own.to(device, dtype, copy=shard.dim is not None))

    def read(self, name: str) -> Tensor:
        """Reads one full tensor, float32."""
        return self._files.read(PREFIX + name)


def write_first_checkpoint(
    folder: Path, shapes: Mapping[str, Shape], tensors: Iterable[Tensor], *, model: Mapping[str, Any], tokenizer: str
) -> None:
    """Writes the first checkpoint of a run that has taken no step: given weights, and no optimizer state.

    `tensors` come in the order of `shapes`, and only one is in memory at a time. `folder` must not be in use.
    """
    state = TrainState()
    path = folder / folder_name(state.step)
    path.mkdir(parents=True)
    write_weights(path, shapes, tensors, state=state, model=model, tokenizer=tokenizer)
    flush_folder(folder)
    write_text(folder / LATEST, path.name + "\n")


def write_weights(
    path: Path,
    shapes: Mapping[str, Shape],
    tensors: Iterable[Tensor],
    *,
    state: TrainState,
    model: Mapping[str, Any],
    tokenizer: str,
) -> None:
    """Writes a checkpoint of `state` with weights and no optimizer state into the empty folder `path`.

    `tensors` come in the order of `shapes`, and only one is in memory at a time.
    """
    named = {PREFIX + name: shape for name, shape in shapes.items()}
    metadata = slices_metadata({name: [0] * len(shape) for name, shape in named.items()})
    size, sha256 = write_safetensors(path / _FILE, named, tensors, dtype=torch.float32, metadata=metadata)
    write_json(path / STATE_FILE_NAME, state.to_plain())
    files = {_FILE: FileRecord(bytes=size, sha256=sha256), STATE_FILE_NAME: FileRecord.of(path / STATE_FILE_NAME)}
    manifest = Manifest(
        step=state.step, tokens=state.tokens, tensors=named, files=files, model=dict(model), tokenizer=tokenizer
    )
    write_manifest(path, manifest)
