"""No rank has begun the micro-batch before which all ranks drop a step, however their threads are interleaved."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest
import torch.distributed as dist

from train.safety.micro_batch_agreement import MicroBatchAgreement

COUNT = 12


class Rank(threading.Thread):
    """Takes up to COUNT micro-batches. It looks for a request before some of them, as a rank's clock may have it."""

    def __init__(self, store: dist.Store, rank: int, world_size: int, seed: int, *, requests_at: int) -> None:  # type: ignore[name-defined]
        super().__init__()
        self._agreement = MicroBatchAgreement(store, step=3, rank=rank, world_size=world_size)
        self._random = random.Random(seed)
        self._requests_at = requests_at
        self.begun = 0
        self.dropped = False

    def run(self) -> None:
        dropping = False
        for index in range(COUNT):
            if index == self._requests_at:
                self._agreement.request()
            dropping = dropping or (self._random.random() < 0.5 and self._agreement.is_requested())
            if dropping and self._agreement.ends_before(index):
                self.dropped = True
                return
            self.begun = index + 1
            time.sleep(self._random.choice([0, 0, 1e-4, 1e-3]))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_drop_before_the_same_micro_batch_or_none_does(world_size: int) -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(60):
        store = dist.HashStore()  # type: ignore[attr-defined]
        wanting = seed % world_size
        ranks = [
            Rank(store, rank, world_size, 97 * seed + rank, requests_at=seed % 8 if rank == wanting else -1)
            for rank in range(world_size)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(60)
            assert not rank.is_alive()
        assert len({(rank.begun, rank.dropped) for rank in ranks}) == 1
        outcomes[ranks[0].dropped] += 1
        if not ranks[0].dropped:
            assert ranks[0].begun == COUNT
    assert outcomes[True] > 0


def test_a_rank_that_has_begun_its_last_micro_batch_keeps_the_step() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    first, second = (MicroBatchAgreement(store, step=1, rank=rank, world_size=2) for rank in range(2))
    first.request()
    assert second.is_requested()
    assert not second.ends_before(COUNT - 1)
    assert not any(first.ends_before(index) for index in range(2, COUNT))


def test_one_rank_drops_at_once_and_another_step_is_not_concerned() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    agreement = MicroBatchAgreement(store, step=1, rank=0, world_size=1)
    assert not agreement.is_requested()
    agreement.request()
    assert agreement.is_requested()
    assert not MicroBatchAgreement(store, step=2, rank=0, world_size=1).is_requested()
    assert agreement.ends_before(5)
