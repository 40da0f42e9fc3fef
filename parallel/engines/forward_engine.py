"""Weights alone, for looking at: no gradients, no optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from parallel.chunk import MicroBatch, PipelineChunk
from parallel.schedule import run_micro_batches


class ForwardEngine:
    """The whole model on one process; it does what of an engine an evaluation needs."""

    def __init__(self, stage: PipelineChunk) -> None:
        self._stages = [stage]

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        return float(run_micro_batches(self._stages, micro_batches, backward=False))
