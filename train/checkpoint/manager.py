"""Checkpoints: one format for every layout, and each is complete or not there at all.

    checkpoints/step-00000100/*.safetensors   tensors by global names, in the slices that the ranks held
                              state.json      TrainState
                              manifest.json   every tensor's shape, every file's size and hash, and its own hash
    checkpoints/latest                        the name of the newest one
    checkpoints/claim.json  .claim-00000001/  the holder of the writer lease, and its workspace (writer_lease.py)

A checkpoint is written in a staging folder, flushed to disk, hashed, and moved into place by one rename; `latest` moves
last. A resume reads the newest checkpoint that is complete, by size and hash. All files are safetensors or JSON.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from parallel.agree import agree, from_first_rank
from parallel.engines.engine import Engine
from parallel.engines.slices import Slice
from parallel.gather import gather_json
from parallel.mesh import Mesh
from parallel.parameter_shards import assert_full_parameters_agree
from settings import UserError, parse
from settings.differences import listed
from settings.files import explained
from train.checkpoint.discovery import candidates, first_complete, read_state
from train.checkpoint.fits_run import misfits
from train.checkpoint.manifest import (
    STATE_FILE_NAME,
    IncompleteCheckpointError,
    Manifest,
    check_slices,
    content_problems,
    read_manifest,
)
from train.checkpoint.resharding import TensorFiles
from train.checkpoint.writer import CheckpointProvenance, CheckpointWriter
from train.checkpoint.writer_lease import LeaseRecord, WriterLease
from train.config import CheckpointConfig
from train.state import TrainState

_MOST_DIFFERENCES = 10
# The timeout of the writer's collectives: how long they take depends on the slowest disk, and the loop's watchdog
# decides when that is too long.
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
        registered_forecast: str = "",
        layout: Mapping[str, Any] | None = None,
        retention: CheckpointConfig | None = None,
        lease: WriterLease | None = None,
    ) -> None:
        """`model`, and the hashes `tokenizer` and `registered_forecast`, must be those of a checkpoint that is loaded.

        `layout` is recorded; "" stands for no forecast.

        `lease` is rank 0's, which needs it to save; the other ranks have none.
        """
        self.folder = folder
        self._mesh = mesh
        self._provenance = CheckpointProvenance(dict(model), tokenizer, dict(layout or {}), registered_forecast)
        # The writer's thread needs a process group of its own: the loop's collectives run meanwhile.
        self._group = dist.new_group(backend="gloo", timeout=_WRITE_TIMEOUT, group_desc="checkpoint")
        self._writer = CheckpointWriter(
            folder,
            mesh,
            self._group,
            lease=_shared_lease(lease, folder, self._group),
            retention=retention or CheckpointConfig(),
            provenance=self._provenance,
        )

    def save(self, engine: Engine, state: TrainState) -> None:
        """Copies the tensors; they are written while the loop goes on. Waits for an earlier save to be complete."""
        slices = engine.state(saving=True)
        # The first tensor rank writes what is declared as full.
        full = {name: part.tensor for name, part in slices.items() if part.dim is None and name.startswith("model.")}
        assert_full_parameters_agree(full, self._mesh.tensor, self._mesh.device)
        self._writer.save(slices, state)

    def add_held_out_loss(self, state: TrainState) -> None:
        """Adds the held-out loss to the manifest of this step's checkpoint, which was saved without it. A collective.

        A run that is stopped within an evaluation saves first, and the next start makes the evaluation anew. The
        manifest is replaced by one rename: the checkpoint is complete all the time.
        """
        self._writer.add_held_out_loss(state)

    def wait(self) -> None:
        """Waits until the last save is complete. Raises what went wrong in writing it, the same on all ranks."""
        self._writer.wait()

    @property
    def save_seconds(self) -> float:
        """How long the last save took, from the copy until it was complete; 0 before the first one."""
        return self._writer.save_seconds

    def check(self) -> None:
        """Raises what went wrong in writing, if anything did by now. Costs nothing."""
        self._writer.check()

    def load_latest(self, engine: Engine) -> TrainState | None:
        """Loads the newest complete checkpoint; returns None and leaves the engine as it is if there is none yet.

        A collective. Every byte is checked first, each rank hashing a share. Checkpoints that are not complete are
        passed over with a warning that says what is wrong. Raises UserError if there are checkpoints and none is
        complete, or if it does not fit the run.
        """
        self.wait()
        names, warnings = from_first_rank(self._candidates, self._group)
        path = first_complete(
            [self.folder / name for name in names],
            warnings,
            problems=self._problems,
            warn=self._warn,
        )
        return None if path is None else self._load(engine, path, self._read_manifest(path))

    def load(self, engine: Engine, path: Path) -> TrainState:
        """Reads one checkpoint into the engine, whatever layout wrote it. A collective.

        Its hashes are not checked; `load_latest` does that. Raises UserError if it does not fit the run.
        """
        manifest = self._read_manifest(path)
        from_first_rank(lambda: check_slices(path, manifest), self._group)
        return self._load(engine, path, manifest)

    def _load(self, engine: Engine, path: Path, manifest: Manifest) -> TrainState:
        slices = engine.state(saving=False)
        if not any(name.startswith("optimizer.") for name in manifest.tensors):
            # Imported weights: the optimizer starts afresh, even if it has taken steps.
            for name, part in slices.items():
                if name.startswith("optimizer."):
                    part.tensor.zero_()
            slices = {name: part for name, part in slices.items() if not name.startswith("optimizer.")}
        self._check_fit(manifest, slices, path)
        state = parse(TrainState, from_first_rank(lambda: read_state(path).to_plain(), self._group), source=str(path))
        if state.step != manifest.step:
            raise UserError(
                f"checkpoint {path}: {STATE_FILE_NAME} is of step {state.step}, the rest of {manifest.step}"
            )
        headers = from_first_rank(lambda: TensorFiles(manifest.tensor_files(path)).headers(), self._group)
        agree(lambda: self._read_tensors(slices, path, headers), self._group)
        engine.loaded(optimizer_steps=state.optimizer_steps)
        return state

    def _warn(self, text: str) -> None:
        if self._mesh.rank == 0:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def _candidates(self) -> tuple[list[str], list[str]]:
        paths, warnings = candidates(self.folder)
        return [path.name for path in paths], warnings

    def _problems(self, path: Path) -> list[str]:
        """Lists what all ranks together find wrong with a checkpoint: the same list on each."""

        try:
            manifest = self._read_manifest(path)
        except IncompleteCheckpointError as error:
            return error.problems

        def find() -> list[str]:
            found = content_problems(path, manifest, share=self._mesh.rank, shares=self._mesh.world_size)
            if found or self._mesh.rank:
                return found
            try:
                check_slices(path, manifest)
            except IncompleteCheckpointError as error:
                return error.problems
            return []

        return list(dict.fromkeys(problem for found in agree(find, self._group) for problem in found))

    def _read_manifest(self, path: Path) -> Manifest:
        """Reads a manifest on the first rank, for all ranks. Raises IncompleteCheckpointError on all ranks alike."""

        def read() -> dict[str, Any]:
            try:
                return {"manifest": read_manifest(path).to_plain()}
            except IncompleteCheckpointError as error:
                return {"problems": error.problems}

        read_by_first = from_first_rank(read, self._group)
        if "problems" in read_by_first:
            raise IncompleteCheckpointError(path, read_by_first["problems"])
        return parse(Manifest, read_by_first["manifest"], source=str(path))

    def _read_tensors(self, slices: Mapping[str, Slice], path: Path, headers: Mapping[str, Mapping[str, Any]]) -> None:
        """Reads what this rank needs, straight into the engine's tensors."""
        with explained("reading a checkpoint"):
            try:
                files = TensorFiles.of_headers(path, headers)
                for name, part in slices.items():
                    for offsets, box in part.boxes(self._mesh.tensor.rank):
                        files.read_into(name, box, offsets)
            except UserError as error:
                raise UserError(f"checkpoint {path} cannot be read: {error}") from None

    def _check_fit(self, manifest: Manifest, slices: Mapping[str, Slice], path: Path) -> None:
        provenance = self._provenance
        differing = misfits(
            manifest,
            model=provenance.model,
            tokenizer=provenance.tokenizer,
            registered_forecast=provenance.registered_forecast,
        )
        for name, part in slices.items():
            there = manifest.tensors.get(name)
            if there is None:
                differing.append(f"{name}: not there")
            elif there != part.full_shape(self._mesh.tensor.size):
                differing.append(f"{name}: {list(there)} there, {list(part.full_shape(self._mesh.tensor.size))} here")
        everyone = gather_json({"names": list(slices), "differing": differing}, self._group)
        wanted = {name for rank in everyone for name in rank["names"]}
        differing = list(dict.fromkeys(line for rank in everyone for line in rank["differing"]))
        differing += [f"{name}: not here" for name in manifest.tensors if name not in wanted]
        if differing:
            shown = listed(differing, most=_MOST_DIFFERENCES)
            raise UserError(f"checkpoint {path} is of another model, tokenizer or optimizer:\n{shown}")


def _shared_lease(lease: WriterLease | None, folder: Path, group: dist.ProcessGroup) -> WriterLease | None:
    """Returns rank 0's lease on every rank: any of them may find out that it is lost."""
    plain = gather_json(lease.record.to_plain() if lease else None, group)[0]
    return None if plain is None else WriterLease(folder, parse(LeaseRecord, plain, source="lease"))
