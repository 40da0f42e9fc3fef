"""Steps without a finite loss or gradient: the engine skips them on all ranks alike; too many in a row end the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parallel.engines.engine import StepResult
from train.run_folder.events import Events
from train.state import TrainState

_SHOWN_SAMPLES = 6  # of each source, on the console; events.jsonl has all


class DivergedError(RuntimeError):
    """Too many steps in a row without a finite gradient."""


def note_skipped(
    state: TrainState,
    result: StepResult,
    *,
    loss: float,
    samples: Mapping[str, Sequence[int]],
    most_in_a_row: int,
    events: Events,
) -> None:
    """Tell of a skipped step, which `state` counts already, and of its samples, by source.

    Raises DivergedError where more than `most_in_a_row` were skipped in a row.
    """
    events.add(
        "skipped",
        f"skipped: loss {loss}, gradient norm {result.grad_norm}; samples {shown(samples)}",
        step=state.step,
        loss=loss,
        grad_norm=result.grad_norm,
        in_a_row=state.skipped_in_a_row,
        samples=samples,
    )
    if state.skipped_in_a_row > most_in_a_row:
        raise DivergedError(
            f"{state.skipped_in_a_row} steps in a row had no finite loss or gradient "
            f"(train.max_skipped_steps = {most_in_a_row}); the last was step {state.step} "
            f"with loss {loss} and gradient norm {result.grad_norm}, of samples {shown(samples)}"
        )


def shown(samples: Mapping[str, Sequence[int]]) -> str:
    """`python 4 8 15, wiki 3`: the first few of each source."""
    parts = []
    for source, numbers in samples.items():
        more = f" and {len(numbers) - _SHOWN_SAMPLES} more" if len(numbers) > _SHOWN_SAMPLES else ""
        parts.append(f"{source} {' '.join(map(str, numbers[:_SHOWN_SAMPLES]))}{more}")
    return ", ".join(parts)
