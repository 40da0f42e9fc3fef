"""The loss on the held-out split, source by source, in nats a token and bits a byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from data.batches.held_out import HeldOutLoader
from model.attention import AttentionMask
from parallel.chunk import MicroBatch
from parallel.engines.engine import Evaluates
from parallel.mesh import Mesh
from train.batches import to_local_batch


@dataclass(frozen=True)
class SourceLoss:
    """Of one source's held-out windows."""

    loss: float  # nats a token
    bits_per_byte: float
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """All sources, and their mean weighted by tokens."""

    sources: dict[str, SourceLoss]

    @property
    def loss(self) -> float:
        """Nats a token over all sources' windows together."""
        tokens = sum(source.tokens for source in self.sources.values())
        return sum(source.loss * source.tokens for source in self.sources.values()) / tokens

    def metrics(self) -> dict[str, float]:
        """As keys of metrics.jsonl."""
        named: dict[str, float] = {"held_out/loss": self.loss}
        for name, source in self.sources.items():
            named[f"held_out/{name}/loss"] = source.loss
            named[f"held_out/{name}/bits_per_byte"] = source.bits_per_byte
        return named


def evaluate(
    engine: Evaluates,
    held_out: HeldOutLoader,
    mesh: Mesh,
    *,
    micro_batch_size: int,
    micro_batches: int,
    max_windows: int,
    documents: Callable[[Tensor], AttentionMask | None],
    stop_asked: Callable[[], bool] = lambda: False,
    track_progress: Callable[[Sequence[MicroBatch]], Sequence[MicroBatch]] = lambda micro_batches: micro_batches,
) -> Evaluation | None:
    """Held-out loss over at most `max_windows` rows of each source. None where a rank was asked to stop on the
    way (`stop_asked`: of this rank). `followed` sees the micro-batches being taken.

    Rounds are of at most `micro_batches` micro-batches a data rank, as the training steps are, so that a pipeline is
    filled; of fewer where a source's windows need fewer.
    """
    sums: dict[str, tuple[float, int]] = {}
    most_windows = max((min(held_out.num_sequences(source), max_windows) for source in held_out.sources), default=0)
    micro_batch_rows = mesh.data.size * micro_batch_size
    rounds = held_out.rounds(
        rows_per_round_global=micro_batch_rows
        * fewest_micro_batches(-(-most_windows // micro_batch_rows), micro_batches, stages=mesh.pipeline.size),
        data_rank=mesh.data.rank,
        data_size=mesh.data.size,
        max_sequences=max_windows,
    )
    for source, rows in rounds:
        batch = to_local_batch(
            rows, mesh, micro_batch_size=micro_batch_size, documents=documents, stop_asked=stop_asked()
        )
        if batch.stop:
            return None
        nll = engine.evaluate(track_progress(batch.micro_batches))
        total, tokens = sums.get(source, (0.0, 0))
        sums[source] = (total + nll, tokens + batch.tokens_global)
    losses = {}
    for source, (nll, tokens) in sums.items():
        loss = nll / tokens
        losses[source] = SourceLoss(loss, loss / math.log(2) / held_out.bytes_per_token(source), tokens)
    return Evaluation(losses)


def fewest_micro_batches(needed: int, most: int, *, stages: int) -> int:
    """How many micro-batches a round has: those needed, in whole turns of the pipeline, at most those of a step.

    Rows that only fill up a round cost as much as others: of a global batch of 512 and 32 windows a source, 15 of 16.
    """
    return max(min(-(-needed // stages) * stages, most), 1)
