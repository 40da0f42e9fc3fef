"""Checkpoints: one format for every layout, whole or not there at all.

    checkpoints/step-00000100/*.safetensors   tensors by global names, cut as the ranks held them
                              state.json      TrainState
                              manifest.json   every tensor's shape, every file's size and hash, and its own
    checkpoints/latest                        the name of the newest one
    checkpoints/claim.json  .claim-00000001/  who writes here, and where it prepares what it publishes (claim.py)

Written aside, flushed to disk, hashed, moved into place by one rename; `latest` moves last. Read is the newest one that
is whole, by size and hash. Only safetensors and JSON are written or read.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from model.config import ModelConfig
from parallel.agree import agree
from parallel.engines.engine import Engine, Slice
from parallel.gather import gather_json
from parallel.mesh import Mesh
from parallel.parameter_shards import assert_full_parameters_agree
from settings import Settings, UserError, parse
from settings.differences import listed
from settings.files import explained
from train.checkpoint.discovery import candidates, first_complete, read_state
from train.checkpoint.manifest import (
    STATE_FILE_NAME,
    IncompleteCheckpointError,
    Manifest,
    check_slices,
    content_problems,
    read_manifest,
)
from train.checkpoint.resharding import TensorFiles
from train.checkpoint.writer import CheckpointWriter, Origin
from train.checkpoint.writer_lease import LeaseRecord, WriterLease
from train.config import CheckpointConfig
from train.resume_rules import differences
from train.state import TrainState

_MOST_DIFFERENCES = 10
# Of the writer's collectives: the slowest disk decides how long they take, and the loop's watchdog when it is too long.
_WRITE_TIMEOUT = datetime.timedelta(days=1)


class CheckpointManager:
    """Saves and finds the checkpoints of one run. Saving holds the loop only for a copy of the tensors."""

    def __init__(
        self,
        folder: Path,
        mesh: Mesh,
        *,
        model: Mapping[str, Any],
        tokenizer: str = "",
        layout: Mapping[str, Any] | None = None,
        retention: CheckpointConfig | None = None,
        lease: WriterLease | None = None,
    ) -> None:
        """`model` and `tokenizer` (its hash) are what a checkpoint must be of; `layout` is recorded.

        `claim`: rank 0's, and needed there to save; the other ranks have none.
        """
        self.folder = folder
        self._mesh = mesh
        self._origin = Origin(dict(model), tokenizer, dict(layout or {}))
        # The writer's thread needs collectives of its own, apart from the loop's.
        self._group = dist.new_group(backend="gloo", timeout=_WRITE_TIMEOUT)
        self._writer = CheckpointWriter(
            folder,
            mesh,
            self._group,
            lease=_shared_claim(lease, folder, self._group),
            retention=retention or CheckpointConfig(),
            origin=self._origin,
        )

    def save(self, engine: Engine, state: TrainState) -> None:
        """Copy the tensors and write them behind the loop's back; waits for an earlier save still being written."""
        slices = engine.state(saving=True)
        # The first tensor rank writes what is declared as full.
        full = {name: part.tensor for name, part in slices.items() if part.dim is None and name.startswith("model.")}
        assert_full_parameters_agree(full, self._mesh.tensor, self._mesh.device)
        self._writer.save(slices, state)

    def tell_held_out_loss(self, state: TrainState) -> None:
        """Add the held-out loss to the manifest of the checkpoint of this step, which was saved without. A collective.

        A run that is stopped within an evaluation saves first; the next start makes the evaluation anew. The manifest
        is put in place by one rename: the checkpoint is whole all the time.
        """
        self._writer.tell_held_out_loss(state)

    def wait(self) -> None:
        """Until what is being written is whole. Raises what went wrong in writing, the same on all ranks."""
        self._writer.wait()

    @property
    def save_seconds(self) -> float:
        """What the last save took, from the copy until it was whole; 0 before the first one."""
        return self._writer.save_seconds

    def check(self) -> None:
        """Raise what went wrong in writing, if it did by now. Costs nothing."""
        self._writer.check()

    def load_latest(self, engine: Engine) -> TrainState | None:
        """Load the newest whole checkpoint; None, and the engine as it was, where there is none yet. A collective.

        Every byte is checked first, each rank hashing a share. Checkpoints that are not whole are passed over with a
        warning that says what is wrong. Raises UserError where there are some and none is whole, or it does not fit.
        """
        self.wait()
        names, warnings = agree(self._candidates, self._group)[0]
        path = first_complete(
            [self.folder / name for name in names],
            warnings,
            problems=self._problems,
            warn=self._warn,
        )
        return None if path is None else self._load(engine, path, read_manifest(path))

    def load(self, engine: Engine, path: Path) -> TrainState:
        """Read one checkpoint into the engine, whatever layout wrote it. A collective.

        Its hashes are not checked, for which see `load_latest`. Raises UserError where it does not fit.
        """
        manifest = read_manifest(path)
        check_slices(path, manifest)
        return self._load(engine, path, manifest)

    def _load(self, engine: Engine, path: Path, manifest: Manifest) -> TrainState:
        slices = engine.state(saving=False)
        if not any(name.startswith("optimizer.") for name in manifest.tensors):
            # Weights that were imported: the optimizer starts afresh, also where it has taken steps.
            for name, part in slices.items():
                if name.startswith("optimizer."):
                    part.tensor.zero_()
            slices = {name: part for name, part in slices.items() if not name.startswith("optimizer.")}
        self._check_fit(manifest, slices, path)
        state = read_state(path)
        if state.step != manifest.step:
            raise UserError(
                f"checkpoint {path}: {STATE_FILE_NAME} is of step {state.step}, the rest of {manifest.step}"
            )
        agree(lambda: self._read_tensors(slices, path, manifest), self._group)
        engine.loaded(optimizer_steps=state.optimizer_steps)
        return state

    def _warn(self, text: str) -> None:
        if self._mesh.rank == 0:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def _candidates(self) -> tuple[list[str], list[str]]:
        if self._mesh.rank:
            return [], []
        paths, warnings = candidates(self.folder)
        return [path.name for path in paths], warnings

    def _problems(self, path: Path) -> list[str]:
        """What all ranks together find wrong with a checkpoint: the same list on each."""

        def look() -> list[str]:
            try:
                manifest = read_manifest(path)
                found = content_problems(path, manifest, share=self._mesh.rank, shares=self._mesh.world_size)
                if not found and self._mesh.rank == 0:
                    check_slices(path, manifest)
            except IncompleteCheckpointError as error:
                return error.problems
            return found

        return list(dict.fromkeys(problem for found in agree(look, self._group) for problem in found))

    def _read_tensors(self, slices: Mapping[str, Slice], path: Path, manifest: Manifest) -> None:
        """Each rank reads what it needs, straight into the engine's own tensors."""
        with explained("reading a checkpoint"):
            try:
                files = TensorFiles(manifest.tensor_files(path))
                for name, part in slices.items():
                    files.read_into(name, part.tensor, part.offsets(self._mesh.tensor.rank))
            except UserError as error:
                raise UserError(f"checkpoint {path} cannot be read: {error}") from None

    def _check_fit(self, manifest: Manifest, slices: Mapping[str, Slice], path: Path) -> None:
        origin = self._origin
        changes = differences({"model": manifest.model}, {"model": origin.model}, schema=_OfModel)
        differing = [f"{key}: {there} there, {here} here" for key, (there, here) in changes.items()]
        if manifest.tokenizer and origin.tokenizer and manifest.tokenizer != origin.tokenizer:
            differing.append(f"tokenizer: SHA-256 {manifest.tokenizer[:16]}… there, {origin.tokenizer[:16]}… here")
        for name, part in slices.items():
            there = manifest.tensors.get(name)
            if there is None:
                differing.append(f"{name}: not there")
            elif there != part.full_shape(self._mesh.tensor.size):
                differing.append(f"{name}: {list(there)} there, {list(part.full_shape(self._mesh.tensor.size))} here")
        everyone = gather_json({"names": list(slices), "differing": differing}, self._group)
        wanted = {name for theirs in everyone for name in theirs["names"]}
        differing = list(dict.fromkeys(line for theirs in everyone for line in theirs["differing"]))
        differing += [f"{name}: not here" for name in manifest.tensors if name not in wanted]
        if differing:
            shown = listed(differing, most=_MOST_DIFFERENCES)
            raise UserError(f"checkpoint {path} is of another model, tokenizer or optimizer:\n{shown}")


class _OfModel(Settings):
    """The section of a run config that a checkpoint's manifest repeats."""

    model: ModelConfig


def _shared_claim(lease: WriterLease | None, folder: Path, group: dist.ProcessGroup) -> WriterLease | None:
    """Rank 0's claim on every rank: any of them may find out that it is lost."""
    plain = gather_json(lease.record.to_plain() if lease else None, group)[0]
    return None if plain is None else WriterLease(folder, parse(LeaseRecord, plain, source="claim"))
