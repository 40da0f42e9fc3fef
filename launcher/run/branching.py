"""A run that begins from a checkpoint of another run: where it begins, and the checks before it starts."""

from __future__ import annotations

from typing import Any

from data.shards.index import shard_tokenizer
from launcher.run.config import BranchConfig, RunConfig
from launcher.run.preflight import model_with_vocabulary
from launcher.run.stages import draw_plan, run_schedule, training_data
from settings import UserError, read_yaml
from settings.differences import listed
from train.checkpoint.branching import find_checkpoint
from train.checkpoint.discovery import read_latest, step_folders
from train.checkpoint.fits_run import misfits
from train.run_folder.branch_record import Origin
from train.run_folder.folder import RunFolder
from train.run_folder.recorded_schedule import SchedulePhases, lr_at
from train.run_folder.start_record import recorded_draws, recorded_kernel, recorded_origin

_MOST_DIFFERENCES = 8
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
    if branch.run is not None and folder.config.exists():
        _check_same_origin(folder, branch, recorded)
    if step_folders(folder.checkpoints) or read_latest(folder.checkpoints) is not None:
        return None
    if recorded is not None:
        find_checkpoint(RunFolder(recorded.path).checkpoints, recorded.step)
        return recorded
    if branch.run is None:
        return None
    parent = RunFolder(branch.run)
    if not parent.config.is_file():
        raise UserError(f"--from {parent.path} is no run folder: it has no config.yaml")
    _, manifest = find_checkpoint(parent.checkpoints, branch.step)
    return Origin(
        run=str(parent.path.absolute()),
        step=manifest.step,
        tokens=manifest.tokens,
        optimizer=branch.optimizer,
        attention_kernel=recorded_kernel(parent.path),
    )


def check_branch(config: RunConfig, phases: SchedulePhases | None) -> list[str]:
    """Returns warnings, a line each, for a run that begins from a checkpoint of another one.

    `phases`: those of the schedule that the parent has recorded. Raises UserError if `branch_origin` does, or if the
    checkpoint is of another model, tokenizer or optimizer, or has taken all steps of this run.
    """
    origin = branch_origin(config)
    if origin is None:
        return []
    parent = RunFolder(origin.path)
    path, manifest = find_checkpoint(parent.checkpoints, origin.step)
    model = model_with_vocabulary(config).to_plain()
    found = misfits(manifest, model=model, tokenizer=shard_tokenizer(training_data(config)).sha256)
    if found:
        lines = listed(found, most=_MOST_DIFFERENCES)
        raise UserError(
            f"checkpoint {path} is of another model or tokenizer than this run:\n{lines}\n"
            "a branch has the model and the tokenizer of its parent: make these keys agree"
        )
    if config.train.steps <= origin.step:
        raise UserError(
            f"train.steps = {config.train.steps} counts from the beginning of {parent.path}: it must be above the step "
            f"{origin.step} of the branch"
        )
    there = read_yaml(parent.config)
    _check_optimizer(config, there)
    return [*_lr_warnings(config, there, phases, origin), *_row_warnings(config, there, origin)]


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


def _check_optimizer(config: RunConfig, there: dict[str, Any]) -> None:
    """Raises UserError if the state of the parent's optimizer cannot go on in this run's."""
    if config.branch.optimizer == "reset":
        return
    here = config.optim.to_plain()
    old = there.get("optim", {})
    names = [[plain.get("name"), *(one.get("name") for one in plain.get("transforms") or ())] for plain in (old, here)]
    if names[0] != names[1]:
        raise UserError(
            f"optim.name and optim.transforms are {', '.join(names[0])} in {config.branch.run} and "
            f"{', '.join(names[1])} here: the optimizer's state cannot go on; set branch.optimizer=reset"
        )


def _lr_warnings(config: RunConfig, there: dict[str, Any], phases: SchedulePhases | None, origin: Origin) -> list[str]:
    """Returns a warning if the lr of the last step of the parent is not that of this run's schedule at that step."""
    if origin.step == 0:
        return []
    new = run_schedule(config)(origin.step - 1)
    old = lr_at(there, phases, step=origin.step - 1)
    if old is None or old == new:
        return []
    return [
        f"lr is not continuous where the branch begins: step {origin.step} had {old:.4g} in {origin.run}, and this "
        f"run's schedule has {new:.4g} there; its phases count from the beginning of the parent"
    ]


def _row_warnings(config: RunConfig, there: dict[str, Any], origin: Origin) -> list[str]:
    """Returns a warning if the steps before the branch would have read other rows than those of the parent did.

    Raises UserError if a stage replays the stages before it, which then would not be what was read.
    """
    parent = recorded_draws(origin.path)
    if parent is not None and draw_plan(config).reads_as(parent, steps=origin.step):
        return []
    plain = config.to_plain()
    changed = []
    for key in _ROWS:
        section, name = key.split(".")
        old, new = there.get(section, {}).get(name), plain[section][name]
        if old != new:
            changed.append(f"{key} = {new} ({old} there)")
    unknown = f"{RunFolder(origin.path).record} does not record which data it read"
    reason = ", ".join(changed) or (unknown if parent is None else "data.mixture or the stages before it differ")
    for number, stage in enumerate(config.stages):
        if stage.replay is not None and stage.replay.share and stage.replay.run is None:
            raise UserError(
                f"stages.{number}.replay replays the stages before it, and they are not what {origin.run} read "
                f"({reason}): set stages.{number}.replay.run={origin.run}@{origin.step}, or make the stages agree"
            )
    if not changed and parent is None:
        return []
    return [
        f"{reason}: the branch reads its data in another order than its parent, so that rows which the parent has read "
        "may come again"
    ]
