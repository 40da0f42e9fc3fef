"""A build holds at no time more than what training holds afterwards."""

from __future__ import annotations

import pytest
from live_memory import LiveMemory
from parallel_runs import Trial, allocated
from processes import run_ranks

from model.memory import LayoutSizes, rank_bytes


def _bytes_of_a_build(trial: Trial) -> tuple[int, int]:
    """Returns the most bytes of tensors during a build, and those that are held after it."""
    with LiveMemory() as memory:
        _, parts = allocated(trial)
    held = memory.alive()
    del parts
    return memory.most, held


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("zero", [2, 3])
def test_zero_2_and_3_hold_what_is_estimated(precision: str, zero: int) -> None:
    trial = Trial(parallel={"data": 2, "zero": zero}, compute={"precision": precision})
    layout = LayoutSizes(data=2, zero=zero, bfloat16=precision == "bfloat16")
    rank = rank_bytes(trial.model_config(), layout, seq_length=32, micro_batch_size=1)
    wanted = rank.weights + rank.optimizer + (rank.gradients if zero == 3 else 0)  # ZeRO 2 allocates them in backward
    for _, held in run_ranks(2, _bytes_of_a_build, trial):
        assert wanted <= held < 1.02 * wanted


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tensor", [1, 2])
def test_a_build_takes_what_training_holds(precision: str, tensor: int) -> None:
    trial = Trial(parallel={"tensor": tensor}, compute={"precision": precision})
    layout = LayoutSizes(tensor=tensor, bfloat16=precision == "bfloat16")
    rank = rank_bytes(trial.model_config(), layout, seq_length=32, micro_batch_size=1)
    wanted = rank.weights + rank.gradients + rank.optimizer
    for most, held in run_ranks(tensor, _bytes_of_a_build, trial):
        assert wanted <= held <= most < 1.01 * wanted
