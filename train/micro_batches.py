"""The micro-batches of a step: this rank's rows as tensors, each token weighted by the global batch's token count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import torch

from model.attention import AttentionMask
from parallel.chunk import MicroBatch
from parallel.spans import span
from train.step_batches import DeviceBatch, tensor_of


class MicroBatches(Sequence[MicroBatch]):
    """Rows in micro-batches of `size`, in their order. Each is made anew whenever it is taken.

    The attention masks (T x T) of all micro-batches of a step at once could fill the memory.
    """

    def __init__(
        self,
        batch: DeviceBatch,
        *,
        size: int,
        tokens_global: int,
        make_mask: Callable[[torch.Tensor], AttentionMask | None],
        when_last_taken: Callable[[], None] = lambda: None,
    ) -> None:
        """`tokens_global` counts the unmasked tokens of the global batch: each weighs 1 / tokens_global in the loss.

        `make_mask` makes a micro-batch's attention mask from its document numbers [B, T]. `when_last_taken` is called
        with the last micro-batch: a GPU has the work of those before it then.
        """
        self._batch = batch
        self._size = size
        self._token_weight = 1.0 / max(tokens_global, 1)
        self._make_mask = make_mask
        self._when_last_taken = when_last_taken

    def __len__(self) -> int:
        return -(-len(self._batch.rows) // self._size)

    @overload
    def __getitem__(self, index: int) -> MicroBatch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[MicroBatch]: ...
    def __getitem__(self, index: int | slice) -> MicroBatch | Sequence[MicroBatch]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        batch, part = self._batch, slice(number * self._size, (number + 1) * self._size)
        with span("data"):
            micro_batch = MicroBatch(
                tokens_BT=batch.tokens_RT[part],
                targets_BT=batch.targets_RT[part],
                weights_BT=batch.loss_mask_RT[part].float() * self._token_weight,
                positions_BT=batch.positions_RT[part],
                attention_mask=self._make_mask(tensor_of(batch.rows.documents[part])),
            )
            if number == len(self) - 1:
                self._when_last_taken()
        return micro_batch
