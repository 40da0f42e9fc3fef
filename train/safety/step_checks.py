"""The checks after every step: a loss that is not defined, a gradient that is not finite, a loss spike.

All ranks come to the same decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from parallel.engines.engine import StepResult
from train.config import TrainConfig
from train.run_folder.events import Events
from train.safety.loss_spikes import is_spike, rolled_back, with_recent_loss
from train.safety.nonfinite import record_skipped_step
from train.safety.sample_numbers import format_samples
from train.state import TrainState


class StepChecks:
    """The checks of one run. `samples_of` gives a batch's sample numbers by source, for the record."""

    def __init__(
        self, config: TrainConfig, events: Events, samples_of: Callable[[int], Mapping[str, Sequence[int]]]
    ) -> None:
        self._max_skipped_steps = config.max_skipped_steps
        self._spikes = config.spikes
        self._events = events
        self._samples_of = samples_of
        self._steps_without_tokens = 0  # of this start

    def after_step(
        self,
        state: TrainState,
        result: StepResult,
        *,
        loss: float | None,
        batch: int,
        load_checkpoint: Callable[[], TrainState | None],
    ) -> TrainState:
        """Returns the state that the run goes on with: `state`, which counts the step already, or a rolled-back one.

        `batch` is the number of the batch that the step took, and `loss` is None if its loss mask left out every token.
        `load_checkpoint` loads the last checkpoint into the engine, or returns None if there is none. Raises
        DivergedError.
        """
        if loss is None:
            self._record_step_without_tokens(state, batch)
            return state
        if result.skipped:
            record_skipped_step(
                state,
                result,
                loss=loss,
                samples=self._samples_of(batch),
                max_in_a_row=self._max_skipped_steps,
                events=self._events,
            )
        if not is_spike(loss, state.recent_losses, self._spikes):
            return with_recent_loss(state, loss, self._spikes)
        checkpoint = load_checkpoint() if state.rollbacks < self._spikes.max_rollbacks else None
        if checkpoint is None:
            self._record_spike(state, loss, batch, "going on through it")
            return with_recent_loss(state, loss, self._spikes)
        after = rolled_back(state, checkpoint, self._spikes)
        self._record_spike(state, loss, batch, f"back to step {after.step}, on with batch {after.batch}", after)
        return after

    def finish(self, state: TrainState) -> None:
        """Records how many steps of this start had no token that counts, if there were any."""
        if self._steps_without_tokens:
            self._events.add(
                "no_tokens_in_all",
                f"warning: in {self._steps_without_tokens} steps of this start no token counted",
                step=state.step,
                steps=self._steps_without_tokens,
            )

    def _record_step_without_tokens(self, state: TrainState, batch: int) -> None:
        """Counts the step, and warns of the first one."""
        self._steps_without_tokens += 1
        if self._steps_without_tokens > 1:
            return
        samples = self._samples_of(batch)
        self._events.add(
            "no_tokens",
            "warning: the loss mask leaves out every token of this batch, so the step has no loss (null in "
            f"metrics.jsonl) and no gradient; samples {format_samples(samples)}; later ones are counted at the end",
            step=state.step,
            samples=samples,
        )

    def _record_spike(
        self, state: TrainState, loss: float, batch: int, what_now: str, after: TrainState | None = None
    ) -> None:
        samples = self._samples_of(batch)
        rollback = (
            {} if after is None else {"to_step": after.step, "left_out": after.left_out, "rollback": after.rollbacks}
        )
        self._events.add(
            "spike" if after is None else "rollback",
            f"loss spike of {loss:.4f}, samples {format_samples(samples)}: {what_now}",
            step=state.step,
            loss=loss,
            samples=samples,
            **rollback,
        )
