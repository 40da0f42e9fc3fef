"""The checkpoint of another run from which a run begins, by its config and its record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launcher.run.config import BranchConfig, RunConfig
from parallel.agree import from_first_rank
from settings import UserError, parse, read_yaml
from train.checkpoint.branching import find_checkpoint
from train.checkpoint.discovery import read_latest, step_folders
from train.run_folder.at_step import no_run_folder
from train.run_folder.branch_record import Origin
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import recorded_choices, recorded_origin

_ROWS = ("run.seed", "train.seq_length", "train.global_batch_size")  # they decide which rows a step reads


def branch_origin(config: RunConfig) -> Origin | None:
    """Returns the checkpoint that will be this run's first one; None if it begins by itself or has a checkpoint.

    A start that ended before the branch had a checkpoint is repeated from the same one. Raises UserError if there is no
    such checkpoint, or if the run folder holds a run that began elsewhere.
    """
    folder, branch = RunFolder(config.run.path), config.branch
    recorded = recorded_origin(folder.path)
    if branch.run is not None and branch.run.resolve() == folder.path.resolve():
        raise UserError(f"run.name = {config.run.name} is the run that the branch begins from; set run.name=NEW")
    if branch.run is not None and folder.record.exists():
        _check_same_origin(folder, branch, recorded)
    if step_folders(folder.checkpoints) or read_latest(folder.checkpoints) is not None:
        return None
    if recorded is not None:
        find_checkpoint(RunFolder(recorded.path).checkpoints, recorded.step)  # raises if it is gone by now
        return recorded
    if branch.run is None:
        return None
    parent = RunFolder(branch.run)
    if not parent.config.is_file():
        raise UserError(f"--from {no_run_folder(parent.path)}")
    _, manifest = find_checkpoint(parent.checkpoints, branch.step)
    own = recorded_origin(parent.path)
    return Origin(
        run=str(parent.path.absolute()),
        step=manifest.step,
        tokens=manifest.tokens,
        optimizer=branch.optimizer,
        choices=recorded_choices(parent.path),
        same_rows=not changed_rows(config, read_yaml(parent.config)) and (own is None or own.same_rows),
    )


def agree_on_origin(find: Callable[[], Origin | None]) -> Origin | None:
    """Returns the origin that the first rank finds, on all ranks. A collective; if `find` raises, all ranks raise."""

    def on_first_rank() -> dict[str, Any] | None:
        origin = find()
        return None if origin is None else origin.to_plain()

    plain = from_first_rank(on_first_rank)
    return None if plain is None else parse(Origin, plain, source="the first rank")


def changed_rows(config: RunConfig, there: dict[str, Any]) -> list[str]:
    """Returns the keys that decide which rows a step reads and that differ from the parent's, with both values."""
    plain = config.to_plain()
    pairs = {key: (_value(there, key), _value(plain, key)) for key in _ROWS}
    return [f"{key} = {new} ({old} there)" for key, (old, new) in pairs.items() if old != new]


def _value(plain: dict[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return plain.get(section, {}).get(name)


def _check_same_origin(folder: RunFolder, branch: BranchConfig, recorded: Origin | None) -> None:
    """Raises UserError if the folder holds a run that did not begin from the checkpoint that the config names."""
    assert branch.run is not None
    if recorded is None:
        raise UserError(
            f"run folder {folder.path} has a run already, which did not branch from {branch.run}; "
            "choose another run.name for the branch"
        )
    differs = branch.step not in (None, recorded.step) or branch.optimizer != recorded.optimizer
    if differs or branch.run.absolute() != recorded.path:
        raise UserError(
            f"run folder {folder.path} has a run already: it branched from {recorded.run}@{recorded.step} with "
            f"branch.optimizer={recorded.optimizer}; choose another run.name for another branch"
        )
