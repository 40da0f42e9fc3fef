"""What is looked at after every step: a gradient that is not finite, a loss out of line. All ranks come to the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from parallel.engines.engine import StepResult
from train.config import TrainConfig
from train.run_folder.events import Events
from train.safety.loss_spikes import is_spike, remembered, rolled_back
from train.safety.nonfinite import note_skipped, shown
from train.state import TrainState


class StepChecks:
    """Of one run. `samples_of` names the samples of a batch by source, for the record."""

    def __init__(
        self, config: TrainConfig, events: Events, samples_of: Callable[[int], Mapping[str, Sequence[int]]]
    ) -> None:
        self._most_skipped = config.max_skipped_steps
        self._spikes = config.spikes
        self._events = events
        self._samples_of = samples_of

    def after_step(
        self,
        state: TrainState,
        result: StepResult,
        *,
        loss: float,
        batch: int,
        go_back: Callable[[], TrainState | None],
    ) -> TrainState:
        """Where the run stands after the step that `state` counts already, which took `batch`.

        `go_back` loads the last checkpoint into the engine; None where there is none. Raises DivergedError.
        """
        if result.skipped:
            note_skipped(
                state,
                result,
                loss=loss,
                samples=self._samples_of(batch),
                most_in_a_row=self._most_skipped,
                events=self._events,
            )
        if not is_spike(loss, state.recent_losses, self._spikes):
            return remembered(state, loss, self._spikes)
        checkpoint = go_back() if state.rollbacks < self._spikes.max_rollbacks else None
        if checkpoint is None:
            self._tell_spike(state, loss, batch, "going on through it")
            return remembered(state, loss, self._spikes)
        after = rolled_back(state, checkpoint, self._spikes)
        self._tell_spike(state, loss, batch, f"back to step {after.step}, on with batch {after.batch}", after)
        return after

    def _tell_spike(
        self, state: TrainState, loss: float, batch: int, what_now: str, after: TrainState | None = None
    ) -> None:
        samples = self._samples_of(batch)
        self._events.add(
            "spike" if after is None else "rollback",
            f"loss spike of {loss:.4f}, samples {shown(samples)}: {what_now}",
            step=state.step,
            loss=loss,
            samples=samples,
            **(
                {}
                if after is None
                else {"to_step": after.step, "left_out": after.left_out, "rollback": after.rollbacks}
            ),
        )
