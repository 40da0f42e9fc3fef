"""All ranks drop a step or none does, tensor ranks before the same micro-batch, however their threads interleave."""

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

    def __init__(
        self,
        agreement: MicroBatchAgreement,
        seed: int,
        *,
        requests_at: int,
        tensor_ranks: threading.Barrier,
    ) -> None:
        """`tensor_ranks` meet within every micro-batch."""
        super().__init__()
        self._agreement = agreement
        self._tensor_ranks = tensor_ranks
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
            self._tensor_ranks.wait(60)


def agreement_of(
    store: dist.Store,  # type: ignore[name-defined]
    rank: int = 0,
    *,
    tensor: int = 1,
    world_size: int = 1,
    step: int = 1,
) -> MicroBatchAgreement:
    return MicroBatchAgreement(
        store, step=step, count=COUNT, rank=rank, data_rank=rank // tensor, world_size=world_size
    )


@pytest.mark.parametrize(("tensor", "data"), [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4)])
def test_all_ranks_drop_the_step_or_none_does(tensor: int, data: int) -> None:
    world_size = tensor * data
    outcomes: Counter[bool] = Counter()
    for seed in range(60):
        store = dist.HashStore()  # type: ignore[attr-defined]
        barriers = [threading.Barrier(tensor) for _ in range(data)]
        ranks = [
            Rank(
                agreement_of(store, rank, tensor=tensor, world_size=world_size),
                97 * seed + rank,
                requests_at=seed % 8 if rank == seed % world_size else -1,
                tensor_ranks=barriers[rank // tensor],
            )
            for rank in range(world_size)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(60)
            assert not rank.is_alive()
        assert len({rank.dropped for rank in ranks}) == 1
        for first in range(0, world_size, tensor):
            assert len({rank.begun for rank in ranks[first : first + tensor]}) == 1
        for rank in ranks:
            assert (rank.begun < COUNT) == rank.dropped
        outcomes[ranks[0].dropped] += 1
    assert outcomes[True] > 0


def test_a_rank_that_has_begun_its_last_micro_batch_keeps_the_step() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    first, second = (agreement_of(store, rank, world_size=2) for rank in range(2))
    first.request()
    assert second.is_requested()
    assert not second.ends_before(COUNT - 1)
    assert not any(first.ends_before(index) for index in range(2, COUNT))


def test_a_fast_data_rank_is_not_caught_up_with() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    slow, fast = (agreement_of(store, rank, world_size=2) for rank in range(2))
    fast.request()
    assert not fast.ends_before(8)
    assert slow.ends_before(2)
    assert fast.ends_before(9)


def test_one_rank_drops_at_once_and_another_step_is_not_concerned() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    agreement = agreement_of(store)
    assert not agreement.is_requested()
    agreement.request()
    assert agreement.is_requested()
    assert not agreement_of(store, step=2).is_requested()
    assert agreement.ends_before(5)
