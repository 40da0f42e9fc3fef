"""Every optimizer, in every layout of ZeRO 0 and 1, is its plain rule on whole matrices in one process.

30 steps, Conda's bases renewed every 7, clipping that bites, document masks, unequal numbers of unmasked tokens: losses
within 1e-5, gradient norms within 1e-4, each weight tensor's difference within 1e-4 of its norm.

Runs see all tokens, so that every gradient has full rank. With few of them the gradients of the first layer have a null
space, where singular vectors are free, and two layouts drift apart as far as that freedom goes: what is determined
there is compared in the last test. One start of processes runs all optimizers of a layout.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from parallel_runs import Trajectory, Trial, all_on_a_rank, merged, oracle, ranks_of
from processes import run_ranks

from optim.optimizer import OPTIMIZERS

SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 2e-3},
    "adamp": {"lr": 1e-3},
    "conda": {"lr": 2e-3, "refresh_interval": 7, "weight_decay": 0.1},
    "muon": {"lr": 2e-3},
    "sgdp": {"lr": 1e-2},
}
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
    "tied-tensor2": ({"tensor": 2}, TIED),
    "tied-pipeline2-data2-zero1": ({"pipeline": 2, "data": 2, "zero": 1}, TIED),
    "tied-tensor2-pipeline2-sequence": ({"tensor": 2, "pipeline": 2, "sequence": True}, TIED),
}
# What a change is most likely to break; the others are not part of the inner loop.
QUICK = ("data2-zero1",)
SMALL = {"num_layers": 2, "hidden_size": 32, "ffn_size": 48}


def test_every_optimizer_is_here() -> None:
    assert SETTINGS.keys() == set(OPTIMIZERS.names())


def trial(name: str, parallel: dict[str, Any], model: dict[str, Any]) -> Trial:
    return Trial(
        model={**SMALL, **model},
        parallel=parallel,
        optimizer=OPTIMIZERS.parse({"name": name, "clip_grad_norm": 0.5, **SETTINGS[name]}),
        steps=30,
        micro_batch_size=4,
        all_tokens=True,
    )


@cache
def expected(name: str, **model: Any) -> Trajectory:
    return oracle(trial(name, {}, model))


@cache
def run(layout: str) -> dict[str, Trajectory]:
    parallel, model = LAYOUTS[layout]
    trials = {name: trial(name, parallel, model) for name in SETTINGS}
    by_rank = run_ranks(ranks_of(parallel), all_on_a_rank, trials, timeout=280)
    return {name: merged([found[name] for found in by_rank]) for name in SETTINGS}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_oracles_clip_and_move(name: str) -> None:
    wanted = expected(name)
    assert all(norm > 0.5 for norm in wanted.grad_norms)
    assert len(set(wanted.losses)) == 30


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "layout", [layout if layout in QUICK else pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS]
)
def test_the_same_run_in_any_layout(layout: str, name: str) -> None:
    found, wanted = run(layout)[name], expected(name, **LAYOUTS[layout][1])
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert found.grad_norms == pytest.approx(wanted.grad_norms, rel=1e-4)
    assert found.weights.keys() == wanted.weights.keys()
    for parameter, weight in wanted.weights.items():
        difference = (found.weights[parameter] - weight).norm() / weight.norm()
        assert difference <= 1e-4, f"{parameter} differs by {difference:.2e} of its norm"
    assert found.diagnostics == pytest.approx(wanted.diagnostics)  # of every matrix, once, whoever owns it
