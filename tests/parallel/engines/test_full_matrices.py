"""Every optimizer, in every layout, gives the run of its plain rule on full matrices in one process.

Its first example trains for 30 steps with clipping that bites, document masks and unequal numbers of unmasked tokens.
Bounds: losses 1e-5 relative, gradient norms 1e-4, each weight tensor's difference 1e-4 of its norm. A method without a
plain rule in optim_oracles.py is compared with its own run in one process.

Runs train on all tokens, so that every gradient has full rank. With few tokens the gradients of the first layer have a
null space, where singular vectors are arbitrary, and two layouts differ by as much. All optimizers of a layout run in
one start of processes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from optim_oracles import RULES
from parallel_runs import Trajectory, Trial, all_on_a_rank, example, merged, ranks_of, reference
from processes import run_ranks

from optim.optimizer import OPTIMIZERS

NAMES = OPTIMIZERS.names()
TIED = {"tied_embeddings": True}
FOUR_LAYERS = {"num_layers": 4}
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name -> (parallel, model)
    "one": ({}, {}),
    "tensor2": ({"tensor": 2}, {}),
    "tensor2-sequence": ({"tensor": 2, "sequence": True}, {}),
    "pipeline2": ({"pipeline": 2}, {}),
    "pipeline2-interleaved": ({"pipeline": 2, "virtual_stages": 2}, FOUR_LAYERS),
    "data2-zero0": ({"data": 2, "zero": 0}, {}),
    "data2-zero1": ({"data": 2, "zero": 1}, {}),
    "data2-zero1-offload": ({"data": 2, "zero": 1, "offload": "optimizer"}, {}),
    "tensor2-data2-zero0": ({"tensor": 2, "data": 2, "zero": 0}, {}),
    "tensor2-data2-zero1": ({"tensor": 2, "data": 2, "zero": 1}, {}),
    "pipeline2-data2-zero1": ({"pipeline": 2, "data": 2, "zero": 1}, {}),
    "tensor2-pipeline2-sequence": ({"tensor": 2, "pipeline": 2, "sequence": True}, {}),
    "tensor2-pipeline2-data2-zero1": ({"tensor": 2, "pipeline": 2, "data": 2, "zero": 1}, {}),
    "data2-zero2": ({"data": 2, "zero": 2}, {}),  # ZeRO 2 and 3: element-wise optimizers only
    "tensor2-data2-zero3": ({"tensor": 2, "data": 2, "zero": 3}, {}),
    "tied-tensor2": ({"tensor": 2}, TIED),
    "tied-pipeline2-data2-zero1": ({"pipeline": 2, "data": 2, "zero": 1}, TIED),
    "tied-tensor2-pipeline2-sequence": ({"tensor": 2, "pipeline": 2, "sequence": True}, TIED),
}
# The layout that a change is most likely to break. The others are marked slow.
QUICK = ("data2-zero1",)
SMALL = {"num_layers": 2, "hidden_size": 32, "ffn_size": 48}


def names_of(layout: str) -> list[str]:
    """Returns the optimizers that a layout can have."""
    return [name for name in NAMES if LAYOUTS[layout][0].get("zero", 1) < 2 or OPTIMIZERS[name].elementwise]


def trial(name: str, parallel: dict[str, Any], model: dict[str, Any]) -> Trial:
    return Trial(
        model={**SMALL, **model},
        parallel=parallel,
        optimizer=example(name, clip_grad_norm=0.5),
        steps=30,
        micro_batch_size=4,
        all_tokens=True,
    )


@cache
def expected(name: str, **model: Any) -> Trajectory:
    return reference(trial(name, {}, model))


@cache
def run(layout: str) -> dict[str, Trajectory]:
    parallel, model = LAYOUTS[layout]
    trials = {name: trial(name, parallel, model) for name in names_of(layout)}
    by_rank = run_ranks(ranks_of(parallel), all_on_a_rank, trials, timeout=280)
    return {name: merged([found[name] for found in by_rank]) for name in trials}


@pytest.mark.parametrize("name", [name for name in NAMES if name in RULES])
def test_the_oracles_clip_and_move(name: str) -> None:
    wanted = expected(name)
    assert all(norm > 0.5 for norm in wanted.grad_norms)
    assert len(set(wanted.losses)) == 30


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        pytest.param(layout, name, marks=() if layout in QUICK else pytest.mark.slow)
        for layout in LAYOUTS
        for name in names_of(layout)
    ],
)
def test_the_same_run_in_any_layout(layout: str, name: str) -> None:
    found, wanted = run(layout)[name], expected(name, **LAYOUTS[layout][1])
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert found.grad_norms == pytest.approx(wanted.grad_norms, rel=1e-4)
    assert found.weights.keys() == wanted.weights.keys()
    for parameter, weight in wanted.weights.items():
        difference = (found.weights[parameter] - weight).norm() / weight.norm()
        assert difference <= 1e-4, f"{parameter} differs by {difference:.2e} of its norm"
    assert found.diagnostics == pytest.approx(wanted.diagnostics)  # of every matrix, once, whichever rank owns it
