"""The data that a run has been trained on, read from its folder: run.json and the state of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from data.batches.draw_plan import Seen
from data.batches.seen import seen_by
from settings import UserError
from train.checkpoint.discovery import read_state, state_to_go_on_from, step_folders, step_of
from train.run_folder.at_step import no_run_folder, split_step
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import recorded_draws, recorded_origin
from train.state import TrainState


def read_seen(run: Path) -> Seen:
    """Returns the data that a run has been trained on up to a checkpoint.

    It is the newest one of FOLDER or FOLDER@latest, or the one of FOLDER@STEP.

    Batches that the run left out are not counted. Raises UserError, with the reason, if the folder does not say.
    """
    path, step = split_step(str(run))
    folder = RunFolder(Path(path))
    if not folder.config.is_file():
        raise UserError(no_run_folder(folder.path))
    plan = recorded_draws(folder.path)
    if plan is None:
        raise UserError(
            f"{folder.record} does not record which data the run draws: an earlier version of lehr trained it; "
            "start it once more with this version (lehr train records it), if it is to go on"
        )
    origin = recorded_origin(folder.path)
    if origin is not None and not origin.same_rows:
        raise UserError(
            f"{folder.path} branched from {origin.run} with another seed, seq_length or batch, so that its rows are "
            "not known by arithmetic; name a run that did not"
        )
    state = _state(folder, step)
    if not state.batch:
        raise UserError(f"{folder.path} has read no data up to its checkpoint of step {state.step}")
    return seen_by(plan, batches=state.batch, left_out=state.left_out)


def _state(folder: RunFolder, step: int | None) -> TrainState:
    paths = {step_of(path): path for path in step_folders(folder.checkpoints)}
    if step is not None and step not in paths:
        there = ", ".join(map(str, paths)) or "none"
        raise UserError(f"{folder.path} has no checkpoint of step {step}; it has {there}")
    state = state_to_go_on_from(folder.checkpoints) if step is None else read_state(paths[step])
    if state is None:
        raise UserError(
            f"{folder.path} has no checkpoint, whose state says how many batches the run has read and which of them "
            "it left out"
        )
    return state
