"""The asynchronous checkpoint writer: a copy in the loop, then a thread that writes, publishes and prunes."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.agree import agree
from parallel.engines.slices import Slice
from parallel.host_memory import host_empty
from parallel.mesh import Mesh
from settings.files import explained, flush_folder, write_json, write_text
from train.checkpoint.discovery import LATEST, step_folders, step_of
from train.checkpoint.manifest import FILE_NAME as MANIFEST
from train.checkpoint.manifest import (
    STATE_FILE_NAME,
    FileRecord,
    IncompleteCheckpointError,
    Manifest,
    MeasuredLoss,
    folder_name,
    read_manifest,
    write_manifest,
)
from train.checkpoint.retention import kept
from train.checkpoint.safetensors_file import slices_metadata, write_safetensors
from train.checkpoint.writer_lease import WriterLease
from train.config import CheckpointConfig
from train.state import TrainState

Shapes: TypeAlias = dict[str, tuple[int, ...]]  # of full tensors

_NICENESS = 10  # of the writer's thread: a step that wants the core gets it


@dataclass(frozen=True)
class StagedSlice:
    """A contiguous float32 or bool tensor on the CPU: the part of a full tensor that begins at `offsets`."""

    tensor: Tensor
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointProvenance:
    """The model, tokenizer, layout and registered forecast that a checkpoint is of, as its manifest says."""

    model: dict[str, Any]
    tokenizer: str  # its hash
    layout: dict[str, Any]
    registered_forecast: str = ""  # its hash; "" if no forecast was registered


class CheckpointWriter:
    """The writer of one run. Its thread alone uses `group`. All ranks have the same `lease`; without one none saves."""

    def __init__(
        self,
        folder: Path,
        mesh: Mesh,
        group: dist.ProcessGroup,
        *,
        lease: WriterLease | None,
        retention: CheckpointConfig,
        provenance: CheckpointProvenance,
    ) -> None:
        self._folder = folder
        self._mesh = mesh
        self._group = group
        self._lease_or_none = lease
        self._retention = retention
        self._provenance = provenance
        self._buffers: dict[str, Tensor] = {}
        self._held_out: dict[int, MeasuredLoss | None] = {}  # of the complete checkpoints seen so far, by step
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self.save_seconds = 0.0  # of the last save, from the copy until it was complete

    def save(self, slices: Mapping[str, Slice], state: TrainState) -> None:
        """Copies the slices and starts to write them. Waits for an earlier save: a slow disk holds the loop."""
        self.wait()
        began = time.monotonic()
        staged, shapes = self._stage(slices)

        def write() -> None:
            self._write(staged, shapes, state)
            self.save_seconds = time.monotonic() - began

        self._thread = threading.Thread(target=self._run_thread, args=(write,), name="checkpoint-writer")
        self._thread.start()

    def add_held_out_loss(self, state: TrainState) -> None:
        """See CheckpointManager.add_held_out_loss."""
        self.wait()
        self._agree(lambda: self._amend_manifest(state) if self._mesh.rank == 0 else None)

    def wait(self) -> None:
        """See CheckpointManager.wait."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """See CheckpointManager.check."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @property
    def _lease(self) -> WriterLease:
        assert self._lease_or_none is not None, "a run saves with a lease"
        return self._lease_or_none

    def _stage(self, slices: Mapping[str, Slice]) -> tuple[dict[str, StagedSlice], Shapes]:
        """Copies what this rank writes into buffers that are reused from save to save; returns the full shapes too.

        Memory that is touched for the first time costs several times a copy, and pinned memory more than that. Of the
        tensors that all tensor ranks hold in full, the first of these ranks writes each.
        """
        tensor_axis = self._mesh.tensor
        staged: dict[str, StagedSlice] = {}
        for name, part in slices.items():
            if part.dim is None and tensor_axis.rank:
                continue
            tensor = part.tensor.detach()
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = host_empty(tensor.shape, tensor.device, tensor.dtype)
                self._buffers[name] = buffer
            buffer.copy_(tensor, non_blocking=True)
            staged[name] = StagedSlice(buffer, part.offsets(tensor_axis.rank))
        if self._mesh.device.type == "cuda":
            torch.cuda.synchronize()
        return staged, {name: slices[name].full_shape(tensor_axis.size) for name in staged}

    def _run_thread(self, write: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):  # Linux takes a thread's id: it is for this thread alone
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            write()
        except Exception as error:
            self._failure = error

    def _write(self, staged: Mapping[str, StagedSlice], shapes: Shapes, state: TrainState) -> None:
        is_first = self._mesh.rank == 0
        staging = self._lease.workspace / folder_name(state.step)
        try:
            self._agree(lambda: self._prepare(staging) if is_first else None)
            written = self._agree(lambda: {"tensors": shapes, "files": self._write_share(staging, staged)})
            self._agree(lambda: self._publish(staging, state, written) if is_first else None)
        except Exception:  # on all ranks: none writes any more
            if is_first:
                shutil.rmtree(staging, ignore_errors=True)
            raise

    def _agree(self, action: Callable[[], Any]) -> list[Any]:
        """Runs the action on every rank; an error on one is raised on all, explained."""

        def explaining() -> Any:
            with explained("saving a checkpoint"):
                try:
                    return action()
                except OSError:
                    self._lease.check()  # the files of a holder that was fenced vanish
                    raise

        return agree(explaining, self._group)

    def _prepare(self, staging: Path) -> None:
        self._lease.check()
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()

    def _write_share(self, staging: Path, staged: Mapping[str, StagedSlice]) -> dict[str, Any]:
        """Writes this rank's file and returns its record; nothing if the rank has nothing to write."""
        if not staged:
            return {}
        name = f"shard-{self._mesh.rank + 1:05d}-model-00001-of-00001.safetensors"
        size, sha256 = write_safetensors(
            staging / name,
            {name: tuple(part.tensor.shape) for name, part in staged.items()},
            (part.tensor for part in staged.values()),
            dtype=torch.float32,
            bools=[name for name, part in staged.items() if part.tensor.dtype == torch.bool],
            metadata=slices_metadata({name: part.offsets for name, part in staged.items()}),
        )
        return {name: {"bytes": size, "sha256": sha256}}

    def _publish(self, staging: Path, state: TrainState, written: list[dict[str, Any]]) -> None:
        """Publishes what all ranks have written as a checkpoint, points `latest` to it, and prunes."""
        write_json(staging / STATE_FILE_NAME, state.to_plain())
        records = {name: FileRecord(**record) for part in written for name, record in part["files"].items()}
        records[STATE_FILE_NAME] = FileRecord.of(staging / STATE_FILE_NAME)
        manifest = Manifest(
            step=state.step,
            tokens=state.tokens,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **_evaluation(state),
            model=self._provenance.model,
            tokenizer=self._provenance.tokenizer,
            registered_forecast=self._provenance.registered_forecast,
            layout=self._provenance.layout,
            tensors={name: tuple(shape) for part in written for name, shape in part["tensors"].items()},
            files=records,
        )
        write_manifest(staging, manifest)
        flush_folder(staging)
        final = self._folder / staging.name
        if final.exists():
            self._lease.retire(final)
        self._lease.publish(staging, final)
        write_text(self._lease.workspace / LATEST, final.name + "\n")
        self._lease.publish(self._lease.workspace / LATEST, self._folder / LATEST)
        self._prune(state.step)

    def _amend_manifest(self, state: TrainState) -> None:
        """Adds the held-out loss to a checkpoint's manifest; does nothing if the checkpoint is gone by now."""
        path = self._folder / folder_name(state.step)
        self._lease.check()
        with contextlib.suppress(IncompleteCheckpointError):
            manifest = read_manifest(path)
            write_manifest(self._lease.workspace, manifest.model_copy(update=_evaluation(state)))
            self._lease.publish(self._lease.workspace / MANIFEST, path / MANIFEST)
            self._prune(state.step)

    def _prune(self, newest: int) -> None:
        """Retires older checkpoints that need not be kept. Those past `newest` are from before a rollback."""
        older = {step_of(path): path for path in step_folders(self._folder) if step_of(path) <= newest}
        for step, path in older.items():
            if step not in self._held_out or step == newest:
                with contextlib.suppress(IncompleteCheckpointError):
                    self._held_out[step] = read_manifest(path).measured
        reasons = kept({step: loss for step, loss in self._held_out.items() if step in older}, self._retention)
        for step, path in older.items():
            if step not in reasons:
                self._lease.retire(path)


def _evaluation(state: TrainState) -> dict[str, Any]:
    """Returns the part of a manifest that the evaluation at the state's own step gave."""
    if state.held_out_loss is None:
        return {}
    return {"held_out_loss": state.held_out_loss, "held_out_on": state.held_out_on}
