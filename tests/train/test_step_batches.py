"""Batches by number, prepared or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.batches.loader import Batch
from train.step_batches import DeviceBatch, StepBatches

ROWS, SEQ_LENGTH = 4, 8


class Numbers:
    """A loader whose every token is the number of its batch; it notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.is_ready = True

    def batch(self, step: int) -> Batch:
        self.asked.append(step)
        shape = (ROWS, SEQ_LENGTH)
        numbers = np.full(shape, step, dtype=np.int64)
        return Batch(
            tokens=numbers,
            targets=numbers + 1,
            loss_mask=np.ones(shape, dtype=np.bool_),
            positions=numbers + 2,
            documents=np.zeros(shape, dtype=np.int32),
            sources=np.zeros(ROWS, dtype=np.int16),
            samples=np.arange(ROWS, dtype=np.int64),
        )

    def has(self, step: int) -> bool:
        return self.is_ready


def is_batch(batch: DeviceBatch, number: int) -> bool:
    values = [each.unique().tolist() for each in (batch.tokens_RT, batch.targets_RT, batch.positions_RT)]
    return values == [[number], [number + 1], [number + 2]] and bool(batch.loss_mask_RT.all())


def test_on_a_cpu_batches_are_those_of_the_loader_and_nothing_is_copied() -> None:
    loader = Numbers()
    batches = StepBatches(loader, torch.device("cpu"))
    for number in (5, 6, 3):
        batch = batches.take(number)
        batches.prepare(number + 1)
        assert is_batch(batch, number)
        assert batch.tokens_RT.data_ptr() == batch.rows.tokens.ctypes.data
    assert loader.asked == [5, 6, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_next_batch_while_it_works() -> None:
    device = torch.device("cuda", 0)
    loader = Numbers()
    batches = StepBatches(loader, device)
    first = batches.take(5)
    x = torch.randn(4096, 4096, device=device)
    done = torch.cuda.Event()
    for _ in range(200):
        x = (x @ x).clamp_(-1, 1)
    done.record()
    batches.prepare(6)
    assert batches._stream is not None
    batches._stream.synchronize()
    assert not done.query()  # the copies are done, and the computation is not
    assert is_batch(batches.take(6), 6)
    assert is_batch(first, 5)
    batches.prepare(7)
    assert is_batch(batches.take(3), 3)  # after a rollback
    loader.is_ready = False
    batches.prepare(4)  # the loader still makes it: the step does not wait
    assert loader.asked == [5, 6, 7, 3]
    assert is_batch(batches.take(4), 4)
