"""The micro-batches of a step: this rank's rows as tensors, each token weighted by the global batch's token count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch

from data.batches.loader import Batch
from model.attention import AttentionMask
from parallel.chunk import MicroBatch
from parallel.spans import span


class MicroBatches(Sequence[MicroBatch]):
    """Rows in micro-batches of `size`, in their order. Each is made anew whenever it is taken.

    The attention masks (T x T) of all micro-batches of a step at once could fill the memory.
    """

    def __init__(
        self,
        rows: Batch,
        *,
        size: int,
        tokens_global: int,
        make_mask: Callable[[torch.Tensor], AttentionMask | None],
        device: torch.device,
    ) -> None:
        """`tokens_global` counts the unmasked tokens of the global batch: each weighs 1 / tokens_global in the loss.

        `make_mask` makes a micro-batch's attention mask from its document numbers [B, T].
        """
        self._rows = rows
        self._size = size
        self._token_weight = 1.0 / max(tokens_global, 1)
        self._make_mask = make_mask
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
        with span("data"):
            return MicroBatch(
                tokens_BT=_tensor(rows.tokens[part]).to(self._device, non_blocking=True),
                targets_BT=_tensor(rows.targets[part]).to(self._device, non_blocking=True),
                weights_BT=_tensor(rows.loss_mask[part]).to(self._device, non_blocking=True).float()
                * self._token_weight,
                positions_BT=_tensor(rows.positions[part]).to(self._device, non_blocking=True),
                attention_mask=self._make_mask(_tensor(rows.documents[part])),
            )


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
