"""Which checkpoints are kept: the last few, every so many steps, the best by held-out loss. It reads no file."""

from __future__ import annotations

from collections.abc import Mapping

from train.checkpoint.manifest import MeasuredLoss
from train.config import CheckpointConfig


def kept(complete: Mapping[int, MeasuredLoss | None], config: CheckpointConfig) -> dict[int, list[str]]:
    """Returns the steps of the checkpoints to keep, each with the reasons.

    `complete` holds the steps of the complete checkpoints, each with its held-out loss if an evaluation fell on that
    step. The newest is always kept, so an only one is. A loss that is not finite has none here; of equal losses the
    newer is the better. Losses on different sequences do not compare: the best on each are kept.
    """
    steps = sorted(complete)
    reasons: dict[int, list[str]] = {}
    for step in steps[-config.keep_last :]:
        reasons.setdefault(step, []).append("last")
    if config.keep_every_steps:
        for step in steps:
            if step % config.keep_every_steps == 0:
                reasons.setdefault(step, []).append("every")
    by_sequences: dict[str, list[tuple[float, int]]] = {}
    for step, measured in complete.items():
        if measured is not None:
            by_sequences.setdefault(measured.on, []).append((measured.loss, -step))
    for losses in by_sequences.values():
        for _, negative in sorted(losses)[: config.keep_best]:
            reasons.setdefault(-negative, []).append("best")
    return reasons
