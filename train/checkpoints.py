"""Checkpoints: one format for every layout, whole or not there at all.

    checkpoints/step-00000100/*.safetensors   tensors by global names, cut as the ranks held them (torch's DCP)
                              state.json      TrainState
                              manifest.json   every tensor's shape and type, every file's size and hash
    checkpoints/latest                        the name of the newest whole one

Written to a folder aside, flushed to disk, hashed, renamed; `latest` moves last. Only safetensors and JSON are read.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from parallel.engine import Engine, Slice
from parallel.mesh import Mesh
from settings import Settings, UserError, parse
from settings.files import file_sha256, flush_folder, write_json, write_text
from train.state import TrainState


class FileRecord(Settings):
    """Size in bytes and hash of one file of a checkpoint."""

    bytes: int
    sha256: str


class Manifest(Settings):
    """What a whole checkpoint holds."""

    format: int = 1
    step: int
    tensors: dict[str, tuple[int, ...]]  # whole shapes, float32
    files: dict[str, FileRecord]
    model: dict[str, Any]  # the model's config: weights of another model are refused by name


class Checkpoints:
    """Saves and finds the checkpoints of one run. Saving holds the loop only for a copy of the tensors."""

    def __init__(self, folder: Path, mesh: Mesh, *, keep_last: int, model: Mapping[str, Any]) -> None:
        self.folder = folder
        self._mesh = mesh
        self._keep_last = keep_last
        self._model = dict(model)
        # The writer's thread needs collectives of its own, apart from the loop's.
        self._group = dist.new_group(backend="gloo")
        self._tensor_mesh = DeviceMesh.from_group(mesh.tensor.group, "cpu") if mesh.tensor.size > 1 else None
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, engine: Engine, state: TrainState) -> None:
        """Copy the tensors and write them behind the loop's back; waits for an earlier save still being written."""
        self.wait()
        tensors = {name: self._described(part, copy=True) for name, part in engine.state(saving=True).items()}
        self._writer = threading.Thread(target=self._guarded_write, args=(tensors, state), name="checkpoint-writer")
        self._writer.start()

    def wait(self) -> None:
        """Until what is being written is whole. Raises what went wrong in writing."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def load(self, engine: Engine, path: Path) -> TrainState:
        """Read a whole checkpoint into the engine, whatever layout wrote it. Raises UserError where it does not fit."""
        manifest = read_manifest(path)
        slices = engine.state(saving=False)
        if not any(name.startswith("optimizer.") for name in manifest.tensors):
            # Weights that were imported: the optimizer starts afresh.
            slices = {name: part for name, part in slices.items() if not name.startswith("optimizer.")}
        self._check_fit(manifest, slices, path)
        load(
            {name: self._described(part, copy=False) for name, part in slices.items()},
            storage_reader=HuggingFaceStorageReader(str(path)),
            process_group=self._group,
        )
        state = parse(TrainState, json.loads((path / "state.json").read_text()), source=str(path / "state.json"))
        engine.loaded(optimizer_steps=state.optimizer_steps)
        return state

    def _check_fit(self, manifest: Manifest, slices: Mapping[str, Slice], path: Path) -> None:
        differing = [
            f"model.{key}: {manifest.model.get(key)!r} there, {value!r} here"
            for key, value in self._model.items()
            if manifest.model.get(key) != value
        ]
        for name, part in slices.items():
            there = manifest.tensors.get(name)
            if there is None:
                differing.append(f"{name}: not there")
            elif there != self._whole_shape(part):
                differing.append(f"{name}: {list(there)} there, {list(self._whole_shape(part))} here")
        wanted = {name for names in _gather_json({"names": list(slices)}, self._group) for name in names["names"]}
        differing += [f"{name}: not here" for name in manifest.tensors if name not in wanted]
        if differing:
            shown = "\n  ".join(differing[:10])
            more = f"\n  and {len(differing) - 10} more" if len(differing) > 10 else ""
            raise UserError(f"checkpoint {path} is of another model or optimizer:\n  {shown}{more}")

    def _whole_shape(self, part: Slice) -> tuple[int, ...]:
        shape = list(part.tensor.shape)
        if part.dim is not None:
            shape[part.dim] *= self._mesh.tensor.size
        return tuple(shape)

    def _described(self, part: Slice, *, copy: bool) -> Tensor:
        tensor = part.tensor.detach()
        if copy:
            tensor = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
        if part.dim is None or self._tensor_mesh is None:
            return tensor
        shape = torch.Size(self._whole_shape(part))
        return DTensor.from_local(
            tensor,
            self._tensor_mesh,
            [Shard(part.dim)],
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )

    def _guarded_write(self, tensors: dict[str, Tensor], state: TrainState) -> None:
        try:
            self._write(tensors, state)
        except BaseException as error:
            self._failure = error

    def _write(self, tensors: dict[str, Tensor], state: TrainState) -> None:
        name = f"step-{state.step:08d}"
        aside = self.folder / f".{name}.partial"
        first = self._mesh.rank == 0
        if first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        dist.barrier(self._group)
        save(
            dict(tensors),
            storage_writer=HuggingFaceStorageWriter(str(aside), save_distributed=True),
            process_group=self._group,
        )
        shapes, files = self._gather_records(tensors, aside)
        if first:
            write_json(aside / "state.json", state.to_plain())
            files["state.json"] = _record(aside / "state.json")
            manifest = Manifest(step=state.step, tensors=shapes, files=files, model=self._model)
            write_json(aside / "manifest.json", manifest.to_plain())
            flush_folder(aside)
            final = self.folder / name
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            flush_folder(self.folder)
            write_text(self.folder / "latest", name + "\n")
            self._prune(name)
        dist.barrier(self._group)

    def _gather_records(
        self, tensors: Mapping[str, Tensor], aside: Path
    ) -> tuple[dict[str, tuple[int, ...]], dict[str, FileRecord]]:
        """Whole shapes of all tensors, and the records of all files: each rank hashes what it wrote."""
        mine = [path for path in sorted(aside.glob("*.safetensors")) if _written_by(path) == self._mesh.rank]
        records = {}
        for path in mine:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            records[path.name] = _record(path).to_plain()
        local = {"tensors": {name: list(tensor.shape) for name, tensor in tensors.items()}, "files": records}
        gathered = _gather_json(local, self._group)
        shapes = {name: tuple(shape) for part in gathered for name, shape in part["tensors"].items()}
        files = {name: FileRecord(**record) for part in gathered for name, record in part["files"].items()}
        return shapes, files

    def _prune(self, newest: str) -> None:
        whole = sorted(path for path in self.folder.glob("step-*") if path.name <= newest)
        for path in whole[: -self._keep_last]:
            shutil.rmtree(path, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, by its `latest` file; None where there is none yet."""
    try:
        name = (folder / "latest").read_text().strip()
    except FileNotFoundError:
        return None
    return folder / name


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint, its files checked by size. Raises UserError where it is not whole."""
    source = path / "manifest.json"
    try:
        manifest = parse(Manifest, json.loads(source.read_text()), source=str(source))
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {path} is not whole: {error}") from None
    for name, record in manifest.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != record.bytes:
            raise UserError(f"checkpoint {path} is not whole: {name} is missing or not of {record.bytes} bytes")
    return manifest


def verify_hashes(path: Path, manifest: Manifest) -> None:
    """Raises UserError naming the first file whose bytes are not those that were written."""
    for name, record in manifest.files.items():
        if file_sha256(path / name) != record.sha256:
            raise UserError(f"checkpoint {path} was altered: {name} does not have the hash of the manifest")


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))


def _written_by(path: Path) -> int:
    """DCP's file names say which rank wrote them: shard-00001-... is rank 0's."""
    return int(path.name.split("-")[1]) - 1


def _gather_json(value: dict[str, Any], group: dist.ProcessGroup) -> list[dict[str, Any]]:
    """Every rank's value, as JSON bytes (nothing that is received is ever unpickled)."""
    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([payload.numel()]), group=group)
    most = max(int(size) for size in sizes)
    padded = torch.zeros(most, dtype=torch.uint8)
    padded[: payload.numel()] = payload
    gathered = [torch.zeros(most, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(gathered, padded, group=group)
    return [
        json.loads(part[: int(size)].numpy().tobytes().decode()) for part, size in zip(gathered, sizes, strict=True)
    ]
