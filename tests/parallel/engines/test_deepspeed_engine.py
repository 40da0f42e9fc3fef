"""DeepSpeed compiles nothing, and state survives its flat partitions to the bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_runs import Trial, made_up, on_a_rank, start
from processes import run_ranks

ODD = {"num_layers": 1, "hidden_size": 20, "num_heads": 2, "num_kv_heads": 1, "ffn_size": 7, "vocab_size": 256}


def train_with_extensions_in(folder: str) -> list[str]:
    os.environ["TORCH_EXTENSIONS_DIR"] = folder
    os.environ["PATH"] = ""  # no compiler
    on_a_rank(Trial(parallel={"zero": 2}, steps=1))
    return os.listdir(folder)


def test_nothing_is_compiled(tmp_path: Path) -> None:
    """A rank that was killed while it built an extension would leave a lock, and every later run would wait for it."""
    assert run_ranks(2, train_with_extensions_in, str(tmp_path)) == [[], []]


def _saved_after_a_round_trip(parallel: dict[str, Any]) -> list[str]:
    """Loads made-up state, whose sizes three ranks do not divide, and returns the names of what this rank saves."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    _, parts = start(Trial(model=ODD, parallel=parallel))
    slices = parts.engine.state(saving=False)
    for name, part in slices.items():
        part.fill(made_up(name, part.shard_shape))
    parts.engine.loaded(optimizer_steps=1)
    found = parts.engine.state(saving=True)
    parameters = dict(parts.chunks[0].transformer.named_parameters())
    with GatheredParameters(list(parameters.values())):
        assert all(torch.equal(weight, made_up(f"model.{name}", weight.shape)) for name, weight in parameters.items())
    for name, saved in found.items():
        assert torch.equal(saved.tensor, made_up(name, saved.shard_shape)), name
        assert saved.tensor.device.type == "cpu"
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_state_survives_to_the_bit_where_ranks_do_not_divide_a_parameter(zero: int) -> None:
    saved = run_ranks(3, _saved_after_a_round_trip, {"data": 3, "zero": zero})
    (unsharded,) = run_ranks(1, _saved_after_a_round_trip, {"zero": zero})
    assert all(saved)  # each rank saves some parameters, and each parameter is saved once
    assert sorted(name for names in saved for name in names) == unsharded
