"""DeepSpeed compiles nothing, and state survives its flat partitions to the bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from live_memory import LiveMemory
from parallel_runs import Trial, on_a_rank, start
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


def _wrong_after_a_round_trip(parallel: dict[str, Any]) -> list[str]:
    """Loads random state, whose sizes three ranks do not divide, and returns the names of what is saved otherwise."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    mesh, parts = start(Trial(model=ODD, parallel=parallel))
    generator = torch.Generator().manual_seed(mesh.tensor.rank)
    given = {}
    for name, part in parts.engine.state(saving=False).items():
        given[name] = torch.randn(part.tensor.shape, generator=generator)
        part.tensor.copy_(given[name])
    parts.engine.loaded(optimizer_steps=1)
    with LiveMemory() as memory:
        found = parts.engine.state(saving=True)
    parameters = dict(parts.chunks[0].transformer.named_parameters())
    with GatheredParameters(list(parameters.values())):
        assert all(torch.equal(weight, given[f"model.{name}"]) for name, weight in parameters.items())
    if mesh.data.rank:
        sizes = [tensor.nbytes for tensor in given.values()]
        # Tensors are gathered one after the other. gloo's thread lets go of the last one a moment after its end.
        assert memory.most < 3 * max(sizes) < sum(sizes) / 2
        return list(found)
    wrong = [name for name, tensor in given.items() if not torch.equal(found[name].tensor, tensor)]
    return wrong + [name for name, part in found.items() if part.tensor.device.type != "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_state_survives_to_the_bit_where_ranks_do_not_divide_a_parameter(zero: int) -> None:
    assert run_ranks(3, _wrong_after_a_round_trip, {"data": 3, "zero": zero}) == [[]] * 3
