"""Loss spikes: the run goes back to the last checkpoint, and on without the batches that led to the spike.

This is PaLM's remedy (arXiv:2204.02311, section 5.1): restarted from a checkpoint before the spike, with the batches
before and during it skipped, the loss did not spike again. So a spike comes of these batches and this state together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

from train.config import SpikeConfig
from train.state import TrainState, with_batches_left_out


def is_spike(loss: float, recent: Sequence[float], config: SpikeConfig) -> bool:
    """Returns whether a step's loss is more than `sigma` deviations above those of the `window_steps` before it."""
    if not config.sigma or len(recent) < config.window_steps or not math.isfinite(loss):
        return False
    return loss > fmean(recent) + config.sigma * pstdev(recent)


def with_recent_loss(state: TrainState, loss: float, config: SpikeConfig) -> TrainState:
    """Returns the state with a step's loss among the recent ones."""
    if not config.sigma or not math.isfinite(loss):
        return state
    recent = (*state.recent_losses, loss)[-config.window_steps :]
    return state.model_copy(update={"recent_losses": recent})


def rolled_back(spiked: TrainState, checkpoint: TrainState, config: SpikeConfig) -> TrainState:
    """Returns the checkpoint's state, with the batches up to the spike left out besides those left out before.

    `spiked` is the state after the step with the spike. Both states are of the same run, so this is a function of the
    losses alone: a run that is killed after it and resumed from the same checkpoint comes to the same rollback.
    """
    last = spiked.model_copy(update={"step": spiked.step - 1}).batch
    first = checkpoint.model_copy(update={"left_out": spiked.left_out}).batch
    if config.skip_batches:
        first = max(first, last - config.skip_batches + 1)
    return checkpoint.model_copy(
        update={
            "left_out": with_batches_left_out(spiked.left_out, first, last),
            "rollbacks": spiked.rollbacks + 1,
        }
    )
