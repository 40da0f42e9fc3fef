"""A run that has ended, opened in one process: its config and a checkpoint, whatever layout wrote it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data.shards.dataset_json import TokenizerInfo
from data.shards.index import shard_tokenizer
from launcher.processes.environment import prepare_process
from launcher.processes.rank_info import SINGLE_PROCESS
from launcher.processes.rendezvous import open_store
from launcher.run.config import RunConfig, load_run_config
from launcher.run.stages import training_data
from model.attention import AttentionMask
from model.config import ModelConfig
from model.transformer import Transformer
from parallel.build import ComputeConfig, LocalModel, build_local_model
from parallel.config import ParallelConfig
from parallel.engines.forward_engine import ForwardEngine
from parallel.mesh import Mesh, make_mesh, start_processes
from parallel.parameter_shards import parameter_shards
from settings import UserError, parse
from settings.files import explained
from train.checkpoint.discovery import candidates, problems_of, read_latest, step_folders, step_of
from train.checkpoint.manifest import IncompleteCheckpointError, Manifest, read_manifest
from train.checkpoint.weights_only import Weights
from train.run_folder.folder import RunFolder


@dataclass(frozen=True)
class SavedRun:
    """A run's config and the model of a checkpoint. The optimizer's state is not loaded."""

    config: RunConfig
    step: int
    mesh: Mesh
    transformer: Transformer
    engine: ForwardEngine
    documents: Callable[[Tensor], AttentionMask | None]


def read_run_config(path: Path, *, data_shards: Path | None = None) -> tuple[RunFolder, RunConfig]:
    """Returns a run folder and its recorded config, with `data_shards` in place of its shards if given.

    Raises UserError if the path is no run folder.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise UserError(f"{path} is no run folder: it has no config.yaml; runs are in the folder that run.folder names")
    overrides = [] if data_shards is None else [f"data.shards={data_shards}"]
    return folder, load_run_config(folder.config, overrides)


@dataclass(frozen=True)
class SavedCheckpoint:
    """A run's config and one of its checkpoints, every byte of which was compared with its hash."""

    config: RunConfig
    path: Path
    manifest: Manifest
    model: ModelConfig


def open_checkpoint(
    path: Path, *, step: int | None = None, data_shards: Path | None = None, tokenizer: TokenizerInfo | None = None
) -> SavedCheckpoint:
    """Returns a run's checkpoint of a step, or its newest one. `data_shards` replaces the folder of its shards.

    `tokenizer` is that of the text which the model will read, by default that of the run's shards. Raises UserError if
    the path is no run folder, if the checkpoint is missing or incomplete, or if the model was trained with another
    tokenizer.
    """
    folder, config = read_run_config(path, data_shards=data_shards)
    checkpoint = chosen_checkpoint(folder, step)
    return describe_checkpoint(config, checkpoint, tokenizer or shard_tokenizer(training_data(config)))


def describe_checkpoint(config: RunConfig, checkpoint: Path, tokenizer: TokenizerInfo) -> SavedCheckpoint:
    """Returns a checkpoint of the run of this config, whose bytes must have been checked (`chosen_checkpoint`)."""
    manifest = read_manifest(checkpoint)
    return SavedCheckpoint(config, checkpoint, manifest, model_of_checkpoint(checkpoint, manifest, tokenizer))


def chosen_checkpoint(folder: RunFolder, step: int | None = None) -> Path:
    """Returns the checkpoint of a step, or the newest one, after checking every byte of it.

    Raises UserError if there is no checkpoint, or none of this step, or if the checkpoint is incomplete: an older one
    is taken only if its step is given.
    """
    paths = {step_of(path): path for path in step_folders(folder.checkpoints)}
    if not paths:
        raise _no_checkpoint(folder)
    if step is None:
        return _newest_checkpoint(folder)
    if step not in paths:
        raise UserError(f"{folder.path} has no checkpoint of step {step}; it has {', '.join(map(str, paths))}")
    problems = problems_of(paths[step])
    if problems:
        raise IncompleteCheckpointError(paths[step], problems)
    return paths[step]


def _newest_checkpoint(folder: RunFolder) -> Path:
    """Returns the checkpoint that `latest` names, or the one of the highest step if `latest` names none."""
    (newest, *older), warnings = candidates(folder.checkpoints)
    named = read_latest(folder.checkpoints)
    problems = problems_of(newest)
    if not problems and named in (None, "", newest.name):
        for warning in warnings:
            print(f"warning: {warning}; the newest is {newest.name}", file=sys.stderr)
        return newest
    lines = [str(IncompleteCheckpointError(newest, problems))] if problems else warnings
    complete = next((path for path in (older if problems else [newest]) if not problems_of(path)), None)
    if complete is None:
        lines.append("no other checkpoint of this run is complete")
    else:
        lines.append(f"the newest complete one is of step {step_of(complete)}: give --step {step_of(complete)} for it")
    raise UserError("\n".join(lines))


def open_saved_run(path: Path, *, step: int | None = None, data_shards: Path | None = None) -> SavedRun:
    """Loads the weights of a run's checkpoint of a step, or of its newest one. Raises what `open_checkpoint` raises.

    `data_shards` replaces the folder that the run recorded, if its shards were moved.
    """
    saved = open_checkpoint(path, step=step, data_shards=data_shards)
    return load_model(saved, start_one_process(saved.config.train.timeout_seconds))


def start_one_process(timeout_seconds: float) -> Mesh:
    """Makes this process the only rank, and returns its mesh. It may be called once in a process."""
    prepare_process(SINGLE_PROCESS)
    store = open_store(SINGLE_PROCESS, timeout_seconds=timeout_seconds)
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=timeout_seconds, store=store)
    return make_mesh(ParallelConfig(), timeout_seconds=timeout_seconds)


def load_model(saved: SavedCheckpoint, mesh: Mesh) -> SavedRun:
    """Loads the weights of a checkpoint, for the mesh of `start_one_process`."""
    local = load_chunk(saved, ParallelConfig(), mesh)
    (chunk,) = local.chunks
    return SavedRun(
        saved.config, saved.manifest.step, mesh, chunk.transformer, ForwardEngine(chunk), local.build_attention_mask
    )


def load_chunk(saved: SavedCheckpoint, parallel: ParallelConfig, mesh: Mesh) -> LocalModel:
    """Loads this rank's part of a checkpoint's weights, in a layout with one chunk a rank."""
    config = saved.config
    compute = ComputeConfig(config.train.precision)  # the kernel of training may not run on this machine
    local = build_local_model(saved.model, parallel, mesh, compute=compute, seq_length=config.train.seq_length)
    (chunk,) = local.chunks
    shards = parameter_shards([chunk.transformer], mesh.tensor, sequence=False, holds_tied_copy=False)
    with explained("reading a checkpoint"):
        weights = Weights(saved.path, saved.manifest)
        weights.fill(shards, mesh.tensor, compute.dtype, mesh.device, all_layers=parallel.pipeline == 1)
    return local


def model_of_checkpoint(checkpoint: Path, manifest: Manifest, tokenizer: TokenizerInfo) -> ModelConfig:
    """Returns the config of the checkpoint's model. Raises UserError if it was trained with another tokenizer."""
    if manifest.tokenizer and manifest.tokenizer != tokenizer.sha256:
        raise UserError(
            f"checkpoint {checkpoint} was trained with another tokenizer than that of the shards: SHA-256 "
            f"{manifest.tokenizer[:16]}… of the checkpoint, {tokenizer.sha256[:16]}… of the shards; "
            "name shards of its tokenizer (--shards for those that the run was trained on)"
        )
    model = parse(ModelConfig, manifest.model, source=str(checkpoint / "manifest.json"))
    return model.with_vocabulary(tokenizer.vocab_size)


def _no_checkpoint(folder: RunFolder) -> UserError:
    return UserError(f"{folder.path} has no checkpoint yet; train it with: lehr train {folder.config}")
