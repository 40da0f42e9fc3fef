"""Rows from the loader become micro-batches of tensors, each token weighted by the whole global batch's count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch

from data.batches.loader import Batch, Loader, batch_hash
from model.attention import AttentionMask
from parallel.chunk import MicroBatch
from parallel.gather import sums_over_world
from parallel.mesh import Mesh


@dataclass(frozen=True)
class LocalBatch:
    """This data rank's micro-batches; the unmasked tokens and the hash of all data ranks' rows; whether to stop."""

    micro_batches: Sequence[MicroBatch]  # each made when it is taken
    tokens_global: int
    hash: str  # 16 hex digits, of the global batch: the same for every layout and cut
    stop: bool  # some rank was asked to stop: the same answer on all


def to_local_batch(
    rows: Batch,
    mesh: Mesh,
    *,
    micro_batch_size: int,
    documents: Callable[[torch.Tensor], AttentionMask | None],
    stop_asked: bool = False,
) -> LocalBatch:
    """Cut rows into micro-batches in their order. A collective: the one message of a step that all ranks exchange.

    The global batch is dealt to data ranks by contiguous blocks of equal size. `documents` makes the masks of a
    micro-batch from its document numbers [B, T]. `stop_asked`: of this rank.
    """
    counts = mesh.tensor.rank == mesh.pipeline.rank == 0  # one rank for each data rank's rows
    own = [int(rows.loss_mask.sum()), batch_hash(rows, first_row=mesh.data.rank * len(rows))] if counts else [0, 0]
    tokens_global, batch_sum, stops = sums_over_world([*own, int(stop_asked)])
    micro_batches = _MicroBatches(
        rows, micro_batch_size, weight=1.0 / max(tokens_global, 1), documents=documents, device=mesh.device
    )
    return LocalBatch(micro_batches, tokens_global, f"{batch_sum % 2**64:016x}", stops > 0)


def name_samples(loader: Loader, step: int) -> dict[str, list[int]]:
    """The sample numbers of a step's global batch, by the names of their sources."""
    sources, samples = loader.sample_numbers(step)
    names = loader.shards.names
    return {names[number]: samples[sources == number].tolist() for number in np.unique(sources).tolist()}


class _MicroBatches(Sequence[MicroBatch]):
    """Made anew each time one is taken: the document masks (T x T) of a whole step at once could fill the memory."""

    def __init__(
        self,
        rows: Batch,
        size: int,
        *,
        weight: float,
        documents: Callable[[torch.Tensor], AttentionMask | None],
        device: torch.device,
    ) -> None:
        self._rows = rows
        self._size = size
        self._weight = weight
        self._documents = documents
        self._device = device

    def __len__(self) -> int:
        return -(-len(self._rows.tokens) // self._size)

    @overload
    def __getitem__(self, index: int) -> MicroBatch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[MicroBatch]: ...
    def __getitem__(self, index: int | slice) -> MicroBatch | Sequence[MicroBatch]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        rows, first = self._rows, range(len(self))[index] * self._size
        part = slice(first, first + self._size)
        return MicroBatch(
            tokens_BT=_tensor(rows.tokens[part]).to(self._device, non_blocking=True),
            targets_BT=_tensor(rows.targets[part]).to(self._device, non_blocking=True),
            weights_BT=_tensor(rows.loss_mask[part]).to(self._device, non_blocking=True).float() * self._weight,
            positions_BT=_tensor(rows.positions[part]).to(self._device, non_blocking=True),
            attention_mask=self._documents(_tensor(rows.documents[part])),
        )


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
