"""Steps without a finite loss or gradient: the engine skips them on all ranks alike; too many in a row end the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parallel.engines.engine import StepResult
from settings import RunError
from train.run_folder.events import Events
from train.safety.sample_numbers import format_samples
from train.state import TrainState


class DivergedError(RunError):
    """Too many steps in a row had no finite gradient."""

    kind = "diverged"


def record_skipped_step(
    state: TrainState,
    result: StepResult,
    *,
    loss: float,
    samples: Mapping[str, Sequence[int]],
    max_in_a_row: int,
    events: Events,
) -> None:
    """Records a skipped step, which `state` counts already, with its samples by source.

    Raises DivergedError if more than `max_in_a_row` steps were skipped in a row.
    """
    events.add(
        "skipped",
        f"skipped: loss {loss}, gradient norm {result.grad_norm}; samples {format_samples(samples)}",
        step=state.step,
        loss=loss,
        grad_norm=result.grad_norm,
        in_a_row=state.skipped_in_a_row,
        samples=samples,
    )
    if state.skipped_in_a_row > max_in_a_row:
        raise DivergedError(
            f"the run diverged: {state.skipped_in_a_row} steps in a row had no finite loss or gradient, more than "
            f"train.max_skipped_steps = {max_in_a_row}; the last was step {state.step} with loss {loss} and gradient "
            f"norm {result.grad_norm}, of samples {format_samples(samples)}; start a new run (run.name) with a lower "
            "optim.lr or more schedule.warmup_steps; if only these samples are bad, resume with a larger "
            "train.max_skipped_steps"
        )
