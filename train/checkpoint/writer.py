"""Writing checkpoints behind the loop's back: a copy in the loop, then a thread that writes, publishes and prunes."""

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
from parallel.engines.engine import Slice
from parallel.mesh import Mesh
from settings.files import explained, flush_folder, write_json, write_text
from train.checkpoint.discovery import LATEST, step_folders, step_of
from train.checkpoint.manifest import FILE_NAME as MANIFEST
from train.checkpoint.manifest import (
    STATE_FILE_NAME,
    FileRecord,
    IncompleteCheckpointError,
    Manifest,
    folder_name,
    read_manifest,
    write_manifest,
)
from train.checkpoint.retention import kept
from train.checkpoint.safetensors_file import slices_metadata, write_safetensors
from train.checkpoint.writer_lease import WriterLease
from train.config import CheckpointConfig
from train.state import TrainState

Shapes: TypeAlias = dict[str, tuple[int, ...]]  # of whole tensors

_NICENESS = 10  # of the writer's thread: a step that wants the core gets it


@dataclass(frozen=True)
class Piece:
    """A contiguous float32 tensor on the CPU, the part of a whole one that begins at `offsets`."""

    tensor: Tensor
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is of, as its manifest says."""

    model: dict[str, Any]
    tokenizer: str  # its hash
    layout: dict[str, Any]


class CheckpointWriter:
    """Of one run. `group` is for its thread alone; `claim` is the same on all ranks, None for one who never saves."""

    def __init__(
        self,
        folder: Path,
        mesh: Mesh,
        group: dist.ProcessGroup,
        *,
        lease: WriterLease | None,
        retention: CheckpointConfig,
        origin: Origin,
    ) -> None:
        self._folder = folder
        self._mesh = mesh
        self._group = group
        self._claim_or_none = lease
        self._retention = retention
        self._origin = origin
        self._staging: dict[str, Tensor] = {}
        self._held_out: dict[int, float | None] = {}  # of the whole checkpoints seen so far, by step
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self.save_seconds = 0.0  # of the last save, from the copy until it was whole

    def save(self, slices: Mapping[str, Slice], state: TrainState) -> None:
        """Copy the slices, start to write them. Waits for an earlier save: a disk that is too slow holds the loop."""
        self.wait()
        began = time.monotonic()
        pieces, shapes = self._staged(slices)

        def write() -> None:
            self._write(pieces, shapes, state)
            self.save_seconds = time.monotonic() - began

        self._thread = threading.Thread(target=self._guarded, args=(write,), name="checkpoint-writer")
        self._thread.start()

    def tell_held_out_loss(self, state: TrainState) -> None:
        """See Checkpoints.tell_held_out_loss."""
        self.wait()
        self._agree(lambda: self._amend(state) if self._mesh.rank == 0 else None)

    def wait(self) -> None:
        """See Checkpoints.wait."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """See Checkpoints.check."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @property
    def _claim(self) -> WriterLease:
        assert self._claim_or_none is not None, "a run saves with a claim"
        return self._claim_or_none

    def _staged(self, slices: Mapping[str, Slice]) -> tuple[dict[str, Piece], Shapes]:
        """Copies of what this rank writes, and their whole shapes, in buffers that are kept from save to save.

        Memory that is touched for the first time costs several times a copy, and pinned memory more than that. What all
        tensor ranks hold whole, the first of them writes.
        """
        tensor_axis = self._mesh.tensor
        pieces: dict[str, Piece] = {}
        for name, part in slices.items():
            if part.dim is None and tensor_axis.rank:
                continue
            tensor = part.tensor.detach()
            buffer = self._staging.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self._staging[name] = buffer
            buffer.copy_(tensor, non_blocking=True)
            pieces[name] = Piece(buffer, part.offsets(tensor_axis.rank))
        if self._mesh.device.type == "cuda":
            torch.cuda.synchronize()
        return pieces, {name: slices[name].full_shape(tensor_axis.size) for name in pieces}

    def _guarded(self, write: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):  # of this thread alone: so does Linux take a thread's id
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            write()
        except Exception as error:
            self._failure = error

    def _write(self, pieces: Mapping[str, Piece], shapes: Shapes, state: TrainState) -> None:
        first = self._mesh.rank == 0
        aside = self._claim.workspace / folder_name(state.step)
        try:
            self._agree(lambda: self._prepare(aside) if first else None)
            written = self._agree(lambda: {"tensors": shapes, "files": self._write_share(aside, pieces)})
            self._agree(lambda: self._publish(aside, state, written) if first else None)
        except Exception:  # on all ranks: none writes any more
            if first:
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _agree(self, action: Callable[[], Any]) -> list[Any]:
        """Do it on every rank; what failed on one is raised on all, in words."""

        def explaining() -> Any:
            with explained("saving a checkpoint"):
                try:
                    return action()
                except OSError:
                    self._claim.check()  # files vanish from under an owner that was shut out
                    raise

        return agree(explaining, self._group)

    def _prepare(self, aside: Path) -> None:
        self._claim.check()
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()

    def _write_share(self, aside: Path, pieces: Mapping[str, Piece]) -> dict[str, Any]:
        """This rank's file and its record; none where it has nothing to write."""
        if not pieces:
            return {}
        name = f"shard-{self._mesh.rank + 1:05d}-model-00001-of-00001.safetensors"
        size, sha256 = write_safetensors(
            aside / name,
            {name: tuple(piece.tensor.shape) for name, piece in pieces.items()},
            (piece.tensor for piece in pieces.values()),
            dtype=torch.float32,
            metadata=slices_metadata({name: piece.offsets for name, piece in pieces.items()}),
        )
        return {name: {"bytes": size, "sha256": sha256}}

    def _publish(self, aside: Path, state: TrainState, written: list[dict[str, Any]]) -> None:
        """Make a checkpoint of what all ranks have written, point `latest` to it, remove what need not be kept."""
        write_json(aside / STATE_FILE_NAME, state.to_plain())
        records = {name: FileRecord(**theirs) for part in written for name, theirs in part["files"].items()}
        records[STATE_FILE_NAME] = FileRecord.of(aside / STATE_FILE_NAME)
        manifest = Manifest(
            step=state.step,
            tokens=state.tokens,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            held_out_loss=state.held_out_loss,
            model=self._origin.model,
            tokenizer=self._origin.tokenizer,
            layout=self._origin.layout,
            tensors={name: tuple(shape) for part in written for name, shape in part["tensors"].items()},
            files=records,
        )
        write_manifest(aside, manifest)
        flush_folder(aside)
        final = self._folder / aside.name
        if final.exists():
            self._claim.withdraw(final)
        self._claim.publish(aside, final)
        write_text(self._claim.workspace / LATEST, final.name + "\n")
        self._claim.publish(self._claim.workspace / LATEST, self._folder / LATEST)
        self._prune(state.step)

    def _amend(self, state: TrainState) -> None:
        """Put another manifest in place of a checkpoint's; where the checkpoint is gone by now, do nothing."""
        path = self._folder / folder_name(state.step)
        self._claim.check()
        with contextlib.suppress(IncompleteCheckpointError):
            manifest = read_manifest(path)
            write_manifest(self._claim.workspace, manifest.model_copy(update={"held_out_loss": state.held_out_loss}))
            self._claim.publish(self._claim.workspace / MANIFEST, path / MANIFEST)
            self._prune(state.step)

    def _prune(self, newest: int) -> None:
        """Remove older checkpoints that nothing asks to keep. Those past `newest` are of a run that was wound back."""
        older = {step_of(path): path for path in step_folders(self._folder) if step_of(path) <= newest}
        for step, path in older.items():
            if step not in self._held_out or step == newest:
                with contextlib.suppress(IncompleteCheckpointError):
                    self._held_out[step] = read_manifest(path).held_out_loss
        reasons = kept({step: loss for step, loss in self._held_out.items() if step in older}, self._retention)
        for step, path in older.items():
            if step not in reasons:
                self._claim.withdraw(path)
