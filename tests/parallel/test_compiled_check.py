"""A run that compiles is refused if torch compiles a block's gradients wrongly."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest
import torch
from parallel_runs import SEQ_LENGTH, Trial, on_a_rank
from processes import run_ranks
from torch import Tensor, nn

import model.norms
from parallel.build import ComputeConfig
from parallel.compiled_check import RunShapes, check_compiled_block
from parallel.compute_choice import agree_on_compute
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh
from settings import UserError

gain_gradient = model.norms._weighted_sum_of_rows


def no_gradient_if_compiled(weights_N: Tensor, x_ND: Tensor) -> Tensor:
    """Breaks the backward pass of RMSNorm as torch 2.11 does: compiled, its gain gets a gradient of zero."""
    gradient_D = gain_gradient(weights_N, x_ND)
    return gradient_D * 0 if torch.compiler.is_compiling() else gradient_D


TRIAL = Trial(model={"num_layers": 1, "bias": True}, compute={"compile": True}, steps=1)


def shapes_of(parallel: ParallelConfig) -> RunShapes:
    return RunShapes(TRIAL.model_config(), parallel, SEQ_LENGTH, TRIAL.micro_batch_size)


def refused(mesh: Mesh, parallel: ParallelConfig | None = None) -> str:
    """Returns the message with which a rank refuses to train; "" if it does not."""
    try:
        check_compiled_block(shapes_of(parallel or ParallelConfig()), mesh, compute=ComputeConfig(compile=True))
    except UserError as error:
        return str(error)
    return ""


def norm_in_two_graphs(self: nn.Module, x: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return x * self.weight  # type: ignore[operator]


def kept(mesh: Mesh) -> tuple[bool, list[str]]:
    """Returns whether a run that has compiled until now goes on so with `auto`, and the warnings."""
    wanted = ComputeConfig(compile="auto")
    compute, warnings = agree_on_compute(wanted, shapes_of(ParallelConfig()), mesh, recorded={"compiled": True})
    assert isinstance(compute.compile, bool)
    return compute.compile, warnings


def outcomes_and_graphs() -> tuple[list[Any], int, int]:
    """Returns what becomes of right and wrong blocks, and the compiled graphs after the check and after a step."""
    from torch._dynamo.utils import counters

    mesh = make_mesh(ParallelConfig(), timeout_seconds=60)
    good = [refused(mesh), kept(mesh)]
    checked = counters["stats"]["unique_graphs"]
    on_a_rank(TRIAL, mesh)
    trained = counters["stats"]["unique_graphs"]
    torch.compiler.reset()
    model.norms._weighted_sum_of_rows = no_gradient_if_compiled
    wrong = [refused(mesh), kept(mesh)]
    model.norms._weighted_sum_of_rows = gain_gradient
    model.norms.RMSNorm.forward = norm_in_two_graphs  # type: ignore[assignment]
    torch.compiler.reset()
    return [*good, *wrong, kept(mesh)], checked, trained


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_a_block_that_is_compiled_wrongly_is_refused() -> None:
    """And its compilation serves the run: a step compiles nothing more. `auto` runs such blocks eagerly."""
    ((outcomes, checked, trained),) = run_ranks(1, outcomes_and_graphs, timeout=300)
    good, kept_good, wrong, kept_wrong, kept_in_graphs = outcomes
    assert (good, kept_good) == ("", (True, []))
    assert wrong.startswith(f"train.compile = true: torch {torch.__version__} computes other gradients")
    assert "_norm.weight differs by 100% of its norm" in wrong
    assert checked == trained > 0
    because = "train.compile = auto: no block is compiled, because torch "
    (warning,), (warning_in_graphs,) = kept_wrong[1], kept_in_graphs[1]
    assert (kept_wrong[0], kept_in_graphs[0]) == (False, False)
    assert warning.startswith(f"{because}{torch.__version__} computes other gradients")
    assert re.fullmatch(rf"{because}breaks a block into \d+ graphs", warning_in_graphs)


def message_and_graphs(parallel: ParallelConfig) -> tuple[str, int, int]:
    from torch._dynamo.utils import counters

    message = refused(make_mesh(parallel, timeout_seconds=60), parallel)
    return message, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
@pytest.mark.parametrize("sequence", [False, True])
def test_a_block_of_tensor_ranks_is_one_graph_with_the_right_gradients(sequence: bool) -> None:
    found = run_ranks(2, message_and_graphs, ParallelConfig(tensor=2, sequence=sequence), timeout=280)
    assert found == [("", 1, 0)] * 2
