"""A run that begins from a checkpoint of another run: where it begins, and the checks before it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.batches.past_data import PastData, past_data
from data.shards.index import shard_tokenizer
from launcher.run.branch_origin import branch_origin, changed_rows
from launcher.run.config import RunConfig
from launcher.run.preflight import model_with_vocabulary
from launcher.run.stages import draw_plan, training_data
from schedules.base import Schedule
from settings import UserError, parse, read_yaml
from settings.differences import listed
from train.checkpoint.branching import find_checkpoint
from train.checkpoint.fits_run import misfits
from train.checkpoint.manifest import check_slices
from train.run_folder.branch_record import Origin
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import recorded_draws, recorded_origin

_MOST_DIFFERENCES = 8


def check_branch(config: RunConfig, schedule_of: Callable[[RunConfig], Schedule]) -> list[str]:
    """Returns warnings, a line each, for a run that begins from a checkpoint of another one.

    `schedule_of` returns the schedule of a config, with the phases that the parent has recorded. Raises UserError if
    `branch_origin` does, or if the checkpoint is of another model, tokenizer or optimizer, has taken all steps of this
    run, or was trained on other data than this config says; and for replay of rows that are not known.
    """
    origin = branch_origin(config)
    _check_replay(config, origin or recorded_origin(config.run.path))
    if origin is None:
        return []
    parent = RunFolder(origin.path)
    path, manifest = find_checkpoint(parent.checkpoints, origin.step)
    check_slices(path, manifest)
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
    _check_optimizer(config, there, origin)
    _check_past_data(config, parent, origin)
    return [*_lr_warnings(config, parent, schedule_of, origin), *_row_warnings(config, there)]


def _check_replay(config: RunConfig, origin: Origin | None) -> None:
    """Raises UserError if a stage replays what the run has read, and a branch with other rows does not know it."""
    if origin is None or origin.same_rows:
        return
    for number, stage in enumerate(config.stages):
        replay = stage.replay
        if replay is not None and replay.share and replay.run is None and replay.draw != "all":
            raise UserError(
                f"stages.{number}.replay: the run branches from {origin.run} with another seed, seq_length or batch, "
                "so that the rows which it has read are not known by arithmetic; replay those of its parent "
                f"(stages.{number}.replay.run={origin.run}@{origin.step}), or the whole sources "
                f"(stages.{number}.replay.draw=all)"
            )


def _check_optimizer(config: RunConfig, there: dict[str, Any], origin: Origin) -> None:
    """Raises UserError if the state of the parent's optimizer cannot go on in this run's."""
    if origin.optimizer == "reset":
        return
    here = config.optim.to_plain()
    old = there.get("optim", {})
    names = [[plain.get("name"), *(one.get("name") for one in plain.get("transforms") or ())] for plain in (old, here)]
    if names[0] != names[1]:
        raise UserError(
            f"optim.name and optim.transforms are {', '.join(names[0])} in {origin.run} and "
            f"{', '.join(names[1])} here: the optimizer's state cannot go on; set branch.optimizer=reset"
        )


def _check_past_data(config: RunConfig, parent: RunFolder, origin: Origin) -> None:
    """Raises UserError if the config draws other data up to the branch than the parent has drawn.

    A branch is one run from the first step of its parent on: what it has seen, and where each source goes on, follow
    from its own config.
    """
    plan = recorded_draws(parent.path)
    if plan is None:  # an earlier version trained it
        return
    past, here = (past_data(each, batches=origin.step) for each in (plan, draw_plan(config)))
    if past.stages == here.stages:
        changed = [name for name, sha256 in past.hashes.items() if here.hashes.get(name) != sha256]
        if changed:
            raise UserError(
                f"the shards of {', '.join(changed)} are not those that {parent.path} was trained on: their hashes "
                "differ; put the same shards into the folder data.shards"
            )
        return
    raise UserError(
        f"up to step {origin.step}, where the branch begins, {parent.path} has drawn {past}; this config "
        f"says {here}. A branch is one run from step 1 on, so its stages begin with those of its parent; "
        f"what is new follows:\n{_example(past, parent=parent, steps=origin.step, config=config)}"
    )


def _example(past: PastData, *, parent: RunFolder, steps: int, config: RunConfig) -> str:
    """Returns the section `stages` of a branch that goes on with the data of this config.

    Of a past with replay it says only where the stages are.
    """
    if any(stage.replays for stage in past.stages):
        return f"stages: those of {parent.config} up to step {steps}, then the new ones"
    ends = [*(stage.first_step for stage in past.stages[1:]), steps]
    lines = ["stages:"]
    for number, (stage, end) in enumerate(zip(past.stages, ends, strict=True)):
        weights = ", ".join(f"{name}: {float(share):.6g}" for name, share in stage.shares.items())
        lines.append(f"- {{name: past{number}, steps: {end - stage.first_step}, mixture: {{{weights}}}}}")
    mixture = (config.stages[-1].mixture if config.stages else {}) or config.data.mixture
    weights = ", ".join(f"{name}: {weight:.6g}" for name, weight in mixture.items())
    lines.append(f"- {{name: new, steps: {max(config.train.steps - steps, 1)}, mixture: {{{weights}}}}}")
    return "\n".join(lines)


def _lr_warnings(
    config: RunConfig, parent: RunFolder, schedule_of: Callable[[RunConfig], Schedule], origin: Origin
) -> list[str]:
    """Returns a warning if the lr of the last step of the parent is not that of this run's schedule at that step."""
    if origin.step == 0:
        return []
    try:
        before = parse(RunConfig, read_yaml(parent.config), source=str(parent.config))
        old, new = (schedule_of(each)(origin.step - 1) for each in (before, config))
    except UserError:  # the record was edited by hand
        return []
    if old == new:
        return []
    return [
        f"lr is not continuous where the branch begins: step {origin.step} had {old:.4g} in {origin.run}, and this "
        f"run's schedule has {new:.4g} there; its phases count from the beginning of the parent"
    ]


def _row_warnings(config: RunConfig, there: dict[str, Any]) -> list[str]:
    """Returns a warning if the order of the rows changes, so that rows may be read again or left out."""
    changed = changed_rows(config, there)
    if not changed:
        return []
    return [
        f"{', '.join(changed)}: the branch reads its data in another order than its parent, so that rows which the "
        "parent has read may come again"
    ]
