"""Which checkpoints are kept: the last few, every so many steps, the best by held-out loss. ComputeConfig only."""

from __future__ import annotations

from collections.abc import Mapping

from train.config import CheckpointConfig


def kept(whole: Mapping[int, float | None], config: CheckpointConfig) -> dict[int, list[str]]:
    """Why each checkpoint that stays does, by step; those that may go are absent.

    `whole`: the steps of the whole checkpoints, each with its held-out loss where an evaluation fell on that step. The
    newest always stays, so the only one does. A loss that is not finite is no best; of equal ones the newer is.
    """
    steps = sorted(whole)
    reasons: dict[int, list[str]] = {}
    for step in steps[-config.keep_last :]:
        reasons.setdefault(step, []).append("last")
    if config.keep_every_steps:
        for step in steps:
            if step % config.keep_every_steps == 0:
                reasons.setdefault(step, []).append("every")
    measured = [(loss, -step) for step, loss in whole.items() if loss is not None]
    for _, negative in sorted(measured)[: config.keep_best]:
        reasons.setdefault(-negative, []).append("best")
    return reasons
