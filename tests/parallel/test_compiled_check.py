"""A run that compiles is refused if torch compiles a block's gradients wrongly."""

from __future__ import annotations

import shutil

import pytest
import torch
from parallel_runs import SEQ_LENGTH, Trial, on_a_rank
from processes import run_ranks
from torch import Tensor

import model.norms
from parallel.build import ComputeConfig
from parallel.compiled_check import check_compiled_block
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh
from settings import UserError

gain_gradient = model.norms._weighted_sum_of_rows


def no_gradient_if_compiled(weights_N: Tensor, x_ND: Tensor) -> Tensor:
    """Breaks the backward pass of RMSNorm as torch 2.11 does: compiled, its gain gets a gradient of zero."""
    gradient_D = gain_gradient(weights_N, x_ND)
    return gradient_D * 0 if torch.compiler.is_compiling() else gradient_D


TRIAL = Trial(model={"num_layers": 1, "bias": True}, compute={"compile": True}, steps=1)


def refused(mesh: Mesh, parallel: ParallelConfig | None = None) -> str:
    """Returns the message with which a rank refuses to train; "" if it does not."""
    try:
        check_compiled_block(
            TRIAL.model_config(),
            parallel or ParallelConfig(),
            mesh,
            compute=ComputeConfig(compile=True),
            seq_length=SEQ_LENGTH,
            micro_batch_size=TRIAL.micro_batch_size,
        )
    except UserError as error:
        return str(error)
    return ""


def messages_and_graphs() -> tuple[str, str, int, int]:
    """Returns what is refused of a good and of a broken block, and the compiled graphs after the check and a step."""
    from torch._dynamo.utils import counters

    mesh = make_mesh(ParallelConfig(), timeout_seconds=60)
    good = refused(mesh)
    checked = counters["stats"]["unique_graphs"]
    on_a_rank(TRIAL, mesh)
    trained = counters["stats"]["unique_graphs"]
    torch.compiler.reset()
    model.norms._weighted_sum_of_rows = no_gradient_if_compiled
    return good, refused(mesh), checked, trained


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_a_block_that_is_compiled_wrongly_is_refused() -> None:
    """And its compilation serves the run: a step compiles nothing more."""
    ((good, broken, checked, trained),) = run_ranks(1, messages_and_graphs, timeout=300)
    assert good == ""
    assert broken.startswith(f"train.compile = true: torch {torch.__version__} computes other gradients")
    assert "_norm.weight differs by 100% of its norm" in broken
    assert checked == trained > 0


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
