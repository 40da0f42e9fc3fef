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
from train.held_out_loss import HELD_OUT_LOSS, source_loss_key
from train.micro_batches import MicroBatches
from train.step_agreement import agree_on_step
from train.step_batches import DeviceBatch


@dataclass(frozen=True)
class SourceLoss:
    """The loss on one source's held-out sequences."""

    loss: float  # nats a token
    bits_per_byte: float | None  # None if the shards do not say how many bytes of text they hold
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """The losses of all sources, and their mean weighted by tokens."""

    sources: dict[str, SourceLoss]

    @property
    def loss(self) -> float:
        """Nats a token over all sources' sequences together."""
        tokens = sum(source.tokens for source in self.sources.values())
        return sum(source.loss * source.tokens for source in self.sources.values()) / tokens

    def metrics(self) -> dict[str, float]:
        """Returns the losses by their keys in metrics.jsonl."""
        named: dict[str, float] = {HELD_OUT_LOSS: self.loss}
        for name, source in self.sources.items():
            named[source_loss_key(name)] = source.loss
            if source.bits_per_byte is not None:
                named[f"held_out/{name}/bits_per_byte"] = source.bits_per_byte
        return named


def evaluate(
    engine: Evaluates,
    held_out: HeldOutLoader,
    mesh: Mesh,
    *,
    micro_batch_size: int,
    micro_batches: int,
    make_mask: Callable[[Tensor], AttentionMask | None],
    stop_requested: Callable[[], bool] = lambda: False,
    track_progress: Callable[[Sequence[MicroBatch]], Sequence[MicroBatch]] = lambda micro_batches: micro_batches,
) -> Evaluation | None:
    """Evaluates the loss of every source of `held_out`, which must have one at least. A collective of all ranks.

    Returns None if some rank was requested to stop meanwhile; `stop_requested` is this rank's own answer.
    `track_progress` wraps the micro-batches of a round, to see them being taken. A round has at most `micro_batches`
    micro-batches a data rank, as a training step has, so that a pipeline is filled.
    """
    sums: dict[str, tuple[float, int]] = {}
    most_rows = max(map(held_out.num_sequences, held_out.sources))
    micro_batch_rows = mesh.data.size * micro_batch_size
    rounds = held_out.rounds(
        rows_per_round_global=micro_batch_rows
        * micro_batches_per_round(-(-most_rows // micro_batch_rows), micro_batches, stages=mesh.pipeline.size),
        data_rank=mesh.data.rank,
        data_size=mesh.data.size,
    )
    for source, rows in rounds:
        agreement = agree_on_step(rows, mesh, stop_requested=stop_requested())
        if agreement.stop:
            return None
        batches = MicroBatches(
            DeviceBatch.of(rows, mesh.device),
            size=micro_batch_size,
            tokens_global=agreement.tokens_global,
            make_mask=make_mask,
        )
        nll = engine.evaluate(track_progress(batches))
        total, tokens = sums.get(source, (0.0, 0))
        sums[source] = (total + nll, tokens + agreement.tokens_global)
    losses = {}
    for source, (nll, tokens) in sums.items():
        loss, bytes_per_token = nll / tokens, held_out.bytes_per_token(source)
        bits_per_byte = loss / math.log(2) / bytes_per_token if bytes_per_token else None
        losses[source] = SourceLoss(loss, bits_per_byte, tokens)
    return Evaluation(losses)


def micro_batches_per_round(needed: int, most: int, *, stages: int) -> int:
    """Returns how many micro-batches a round has: `needed`, filled up to whole turns of the pipeline, at most `most`.

    Rows that only fill up a round cost as much as others: with a global batch of 512 rows and 32 rows a source, whole
    steps would waste 15 of 16.
    """
    return max(min(-(-needed // stages) * stages, most), 1)
