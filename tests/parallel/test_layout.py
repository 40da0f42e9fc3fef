"""ZeRO 2 and 3 with an optimizer of full matrices are refused, with the reason and a layout that is possible."""

from __future__ import annotations

import dataclasses

import pytest

from model.config import ModelConfig
from optim.optimizer import OPTIMIZERS
from parallel.config import ParallelConfig
from parallel.layout import Workload, check_layout
from settings import UserError

MODEL = ModelConfig(num_layers=2, hidden_size=32, num_heads=4, ffn_size=48, vocab_size=64)


def workload(name: str) -> Workload:
    return Workload(
        world_size=4,
        seq_length=16,
        micro_batch_size=1,
        global_batch_size=4,
        needs_full_matrices=OPTIMIZERS[name].examples()[0].needs_full_matrices(),
    )


@pytest.mark.parametrize("zero", [2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_flat_parts_are_for_elementwise_optimizers(name: str, zero: int) -> None:
    parallel = ParallelConfig.model_validate({"tensor": 2, "data": 2, "zero": zero})
    if OPTIMIZERS[name].elementwise:
        check_layout(parallel, MODEL, workload(name))
        return
    with pytest.raises(UserError) as refusal:
        check_layout(parallel, MODEL, workload(name))
    message = str(refusal.value)
    assert (
        f"parallel.zero = {zero} splits matrices into flat parts, and optim.name = {name} needs full matrices"
        in message
    )
    assert "parallel.tensor=2 parallel.pipeline=1 parallel.data=2 parallel.zero=1" in message


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_owners_are_for_all(name: str, zero: int) -> None:
    for layout in ({"tensor": 2, "data": 2}, {"pipeline": 2, "data": 2}, {"data": 4}, {"tensor": 2, "pipeline": 2}):
        check_layout(ParallelConfig.model_validate({**layout, "zero": zero}), MODEL, workload(name))


@pytest.mark.parametrize(
    ("layout", "change", "expected"),
    [
        ({"data": 4}, {"global_batch_size": 10}, "x 4 data ranks; the nearest are 8 and 12"),
        ({"data": 4}, {"global_batch_size": 3}, "x 4 data ranks; the nearest is 4"),
        (
            {"pipeline": 2, "virtual_stages": 2, "data": 2},
            {"global_batch_size": 6},
            "parallel.pipeline = 2; for train.global_batch_size the nearest are 4 and 8",
        ),
        ({"tensor": 4, "sequence": True}, {"seq_length": 18}, "parallel.tensor = 4; the nearest are 16 and 20"),
    ],
)
def test_a_number_that_does_not_divide_names_the_nearest_that_do(
    layout: dict[str, object], change: dict[str, int], expected: str
) -> None:
    with pytest.raises(UserError) as refusal:
        check_layout(ParallelConfig.model_validate(layout), MODEL, dataclasses.replace(workload("adamw"), **change))
    assert expected in str(refusal.value)
