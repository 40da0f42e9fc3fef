"""A build holds at no time more than what training holds afterwards."""

from __future__ import annotations

import pytest
from live_memory import LiveMemory
from parallel_runs import Trial, allocated
from processes import run_ranks

from model.memory import LayoutSizes, rank_bytes


def _bytes_of_a_build(trial: Trial) -> tuple[int, int, int]:
    """Returns the most bytes of tensors during a build, those that are held after it, and those that a save copies."""
    with LiveMemory() as memory:
        _, parts = allocated(trial)
    held = memory.alive()
    saved = sum(part.tensor.nbytes for part in parts.engine.state(saving=True).values())
    del parts
    return memory.most, held, saved


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("zero", [2, 3])
def test_zero_2_and_3_hold_what_is_estimated(precision: str, zero: int) -> None:
    trial = Trial(parallel={"data": 2, "zero": zero}, compute={"precision": precision})
    layout = LayoutSizes(data=2, zero=zero, bfloat16=precision == "bfloat16")
    rank = rank_bytes(trial.model_config(), layout, seq_length=32, micro_batch_size=1)
    wanted = rank.weights + rank.optimizer + (rank.gradients if zero == 3 else 0)  # ZeRO 2 allocates them in backward
    for most, held, saved in run_ranks(2, _bytes_of_a_build, trial):
        assert wanted <= held < 1.02 * wanted
        assert rank.build <= most < 1.02 * rank.build
        assert saved == pytest.approx(rank.saved, rel=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("parallel", [{}, {"tensor": 2}, {"pipeline": 2}], ids=str)
def test_a_build_takes_what_training_holds(precision: str, parallel: dict[str, int]) -> None:
    trial = Trial(parallel=parallel, compute={"precision": precision})
    layout = LayoutSizes(**parallel, bfloat16=precision == "bfloat16")
    rank = rank_bytes(trial.model_config(), layout, seq_length=32, micro_batch_size=1)
    wanted = rank.weights + rank.gradients + rank.optimizer
    found = run_ranks(len(parallel) + 1, _bytes_of_a_build, trial)
    for most, held, saved in found:
        assert held <= most < 1.01 * held
        assert saved == pytest.approx(rank.saved, rel=0.01)
    assert wanted <= max(held for _, held, _ in found) < 1.01 * wanted
    assert rank.build == wanted
