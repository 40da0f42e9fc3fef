"""A finished or stopped run, opened to be looked at: its newest checkpoint in one process, whatever layout wrote it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from data.open import shard_tokenizer
from launcher.checks import model_with_vocabulary
from launcher.config import RunConfig
from launcher.environment import SINGLE, prepare_process
from launcher.rendezvous import open_store
from model.config import ModelConfig
from parallel.build import Arithmetic, Parts, build
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh, start_processes
from settings import UserError, compose
from train.checkpoint_folder import candidates, latest_checkpoint, problems_of, step_folders, step_of
from train.checkpoints import Checkpoints
from train.manifest import NotWholeError
from train.run_folder import RunFolder
from train.state import TrainState


@dataclass(frozen=True)
class OpenRun:
    """A run's config and model, and an engine that holds its weights."""

    folder: RunFolder
    config: RunConfig
    model: ModelConfig
    mesh: Mesh
    parts: Parts
    state: TrainState


def read_run_config(path: Path, *, data_shards: Path | None = None) -> tuple[RunFolder, RunConfig]:
    """A run folder and its recorded config, `data_shards` in place of its shards. Raises UserError if it is no run."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise UserError(f"{path} is no run folder: it has no config.yaml; runs are in the folder that run.folder names")
    overrides = [] if data_shards is None else [f"data.shards={data_shards}"]
    return folder, compose(RunConfig, folder.config, overrides)


def chosen_checkpoint(folder: RunFolder, step: int | None = None) -> Path:
    """The checkpoint of a step, or the newest whole one, every byte of it checked.

    Raises UserError where there is none, with the steps that there are, or where that of the step is not whole.
    """
    there = {step_of(path): path for path in step_folders(folder.checkpoints)}
    if not there:
        raise _no_checkpoint(folder)
    if step is None:
        latest = latest_checkpoint(folder.checkpoints, warn=lambda text: print(f"warning: {text}", file=sys.stderr))
        assert latest is not None, "a checkpoint was there a moment ago"
        return latest
    if step not in there:
        raise UserError(f"{folder.path} has no checkpoint of step {step}; it has {', '.join(map(str, there))}")
    problems = problems_of(there[step])
    if problems:
        raise NotWholeError(there[step], problems)
    return there[step]


def open_run_for_reading(path: Path, *, data_shards: Path | None = None) -> OpenRun:
    """Load the newest whole checkpoint of a run folder. Raises UserError where there is none, or no run.

    `data_shards` replaces the folder that the run recorded, where its shards were moved.
    """
    folder, config = read_run_config(path, data_shards=data_shards)
    if not candidates(folder.checkpoints)[0]:
        raise _no_checkpoint(folder)
    prepare_process(SINGLE)
    timeout_seconds = config.train.timeout_seconds
    start_processes(
        rank=0,
        world_size=1,
        local_rank=0,
        timeout_seconds=timeout_seconds,
        store=open_store(SINGLE, timeout_seconds=timeout_seconds),
    )
    parallel = ParallelConfig()
    mesh = make_mesh(parallel, timeout_seconds=timeout_seconds)
    model = model_with_vocabulary(config)
    parts = build(
        model,
        parallel,
        config.optim,
        mesh,
        arithmetic=Arithmetic(config.train.precision, config.train.attention),
        seq_length=config.train.seq_length,
        micro_batches=1,
        seed=config.run.seed,
    )
    checkpoints = Checkpoints(
        folder.checkpoints, mesh, model=model.to_plain(), tokenizer=shard_tokenizer(config.data).sha256
    )
    state = checkpoints.load_latest(parts.engine)
    assert state is not None, "a checkpoint was there a moment ago"
    return OpenRun(folder, config, model, mesh, parts, state)


def _no_checkpoint(folder: RunFolder) -> UserError:
    return UserError(f"{folder.path} has no checkpoint yet; train it with: lehr train {folder.config}")
