"""Steps without a finite loss or gradient: the engine skips them on all ranks alike; too many in a row end the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parallel.engines.engine import StepResult
from train.run_folder.events import Events
from train.safety.sample_numbers import format_samples
from train.state import TrainState


class DivergedError(RuntimeError):
    """Too many steps in a row had no finite gradient."""


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
            f"{state.skipped_in_a_row} steps in a row had no finite loss or gradient "
            f"(train.max_skipped_steps = {max_in_a_row}); the last was step {state.step} "
            f"with loss {loss} and gradient norm {result.grad_norm}, of samples {format_samples(samples)}"
        )
