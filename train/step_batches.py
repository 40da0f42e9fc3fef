"""The batches of a run on the rank's device; a GPU gets that of the next step while it computes this one's."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.batches.loader import Batch
from model.device_copy import copied_to


class Batches(Protocol):
    """Anything that has the batch of every step."""

    def batch(self, step: int) -> Batch:
        """Returns this data rank's rows of a 0-based step."""
        ...

    def has(self, step: int) -> bool:
        """Returns whether `batch` returns those of a step at once."""
        ...


@dataclass(frozen=True)
class DeviceBatch:
    """R rows of T tokens: on the host, and the arrays that the model computes with on the device.

    The document numbers stay on the host, where masks are made of them.
    """

    rows: Batch
    tokens_RT: Tensor
    targets_RT: Tensor
    loss_mask_RT: Tensor
    positions_RT: Tensor

    @classmethod
    def of(cls, rows: Batch, device: torch.device) -> DeviceBatch:
        """Copies the arrays to a device, to a GPU from pinned memory: the host does not wait for the copies."""
        arrays = (rows.tokens, rows.targets, rows.loss_mask, rows.positions)
        return cls(rows, *(copied_to(tensor_of(array), device) for array in arrays))


class StepBatches:
    """The loader's batches on the device, taken by their number."""

    def __init__(self, loader: Batches, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: tuple[int, DeviceBatch] | None = None

    def take(self, number: int) -> DeviceBatch:
        """Returns the batch of a 0-based number, which may have been prepared."""
        batch = self._next[1] if self._next is not None and self._next[0] == number else self._copy(number)
        self._next = None
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in (batch.tokens_RT, batch.targets_RT, batch.loss_mask_RT, batch.positions_RT):
                tensor.record_stream(current)  # its memory is not used anew before this stream has read it
        return batch

    def prepare(self, number: int) -> None:
        """Starts the copies of a batch in a stream of their own; to be called when the device has work.

        A batch that the loader still makes is left to `take`, where the time for reading data is measured: to wait for
        it here would hold the step. A CPU has nothing to copy: the loader's own threads prepare its batches.
        """
        if self._stream is not None and self._loader.has(number):
            self._next = (number, self._copy(number))

    def _copy(self, number: int) -> DeviceBatch:
        rows = self._loader.batch(number)
        with contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return DeviceBatch.of(rows, self._device)


def tensor_of(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
    """Returns an array as a tensor on the host, over the same memory if its rows follow each other there."""
    return torch.from_numpy(np.ascontiguousarray(array))
