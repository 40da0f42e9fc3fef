"""The one message of a step: whether to stop, how many tokens the global batch has, and its hash."""

from __future__ import annotations

from dataclasses import dataclass

from data.batches.loader import Batch, batch_hash
from parallel.gather import sums_over_world
from parallel.mesh import Mesh


@dataclass(frozen=True)
class StepAgreement:
    """The facts about a global batch that all ranks share before they compute on it."""

    stop: bool  # some rank was requested to stop: no rank takes the batch
    tokens_global: int  # unmasked tokens of the global batch
    batch_hash: str  # 16 hex digits of the global batch, the same for every layout


def agree_on_step(rows: Batch, mesh: Mesh, *, stop_requested: bool) -> StepAgreement:
    """Exchanges the step's one message. A collective of all ranks.

    `rows` are this data rank's: the global batch is dealt to the data ranks in contiguous blocks of equal size.
    `stop_requested` is this rank's own answer.
    """
    counts = mesh.tensor.rank == mesh.pipeline.rank == 0  # several ranks hold the same rows, and one of them counts
    local = [int(rows.loss_mask.sum()), batch_hash(rows, first_row=mesh.data.rank * len(rows))] if counts else [0, 0]
    tokens_global, hash_sum, stops = sums_over_world([*local, int(stop_requested)])
    return StepAgreement(stops > 0, tokens_global, f"{hash_sum % 2**64:016x}")
