"""An engine for evaluation alone: weights, no gradients, no optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from parallel.schedule import run_micro_batches
from parallel.stage import MicroBatch, Stage


class ForwardEngine:
    """The full model on one process, for evaluation."""

    def __init__(self, stage: Stage) -> None:
        self._stages = [stage]

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        return float(run_micro_batches(self._stages, micro_batches, backward=False))
