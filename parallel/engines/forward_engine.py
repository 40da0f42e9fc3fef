"""An engine for evaluation alone: weights, no gradients, no optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from parallel.chunk import MicroBatch, PipelineChunk
from parallel.schedule import run_micro_batches


class ForwardEngine:
    """The full model on one process, for evaluation."""

    def __init__(self, chunk: PipelineChunk) -> None:
        self._chunks = [chunk]

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        return float(run_micro_batches(self._chunks, micro_batches, backward=False))
