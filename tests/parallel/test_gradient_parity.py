"""The gradients of one step, parameter by parameter, against float64: compiled or not, in every kind of engine.

The cases cover every pair of settings. A case's error may be twice that of plain torch in the same precision: the model
without an engine, eager, with torch's cross-entropy of full logits. Gradients are read from what the optimizers keep of
their first step.

On a GPU the same cases run there (`pytest -m gpu`).
"""

from __future__ import annotations

import itertools
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partialmethod
from typing import Any, NamedTuple

import pytest
import torch
from parallel_runs import SEED, SEQ_LENGTH, GlobalBatch, Trial, example, global_batches, local_micro_batches, start
from processes import run_ranks
from torch import Tensor, nn
from torch.distributed import HashStore

from model.attention import KERNELS, AttentionMask
from model.init import initialise
from model.layers import TorchLayers
from model.transformer import Transformer
from parallel.build import DTYPES
from parallel.config import ParallelConfig
from parallel.engines.engine import Slice
from parallel.mesh import make_mesh, start_processes

COMPILE = nn.Module.compile
ZERO_2_AND_3 = ("adamw",)  # optimizers that work on parts of a matrix
# The share of the first step's gradient that the optimizers of the cases keep in a moment.
KEPT = {
    **{(optimizer, "exp_avg"): 0.1 for optimizer in ("adamw", "conda", "adamp")},
    ("sgdp", "momentum"): 1.0,
    ("muon", "momentum"): 0.05,
    ("muon", "exp_avg"): 0.1,
}


class Case(NamedTuple):
    compiled: bool
    precision: str
    documents: bool
    kv_heads: int
    recompute: str
    optimizer: str
    zero: int


VALUES: dict[str, tuple[Any, ...]] = {
    "compiled": (False, True),
    "precision": ("float32", "bfloat16"),
    "documents": (True, False),
    "kv_heads": (2, 4),
    "recompute": ("none", "selective", "full"),
    "optimizer": ("adamw", "conda", "adamp", "sgdp", "muon"),
    "zero": (1, 0, 2, 3),
}


def pairs(case: Case) -> set[tuple[str, Any, str, Any]]:
    """Returns every pair of settings of a case."""
    return {(a, x, b, y) for (a, x), (b, y) in itertools.combinations(case._asdict().items(), 2)}


def pairwise() -> list[Case]:
    """Chooses cases, each the one that adds most pairs, until they cover every pair that is possible."""
    possible = [
        case
        for case in itertools.starmap(Case, itertools.product(*VALUES.values()))
        if case.zero < 2 or (case.optimizer in ZERO_2_AND_3 and not (case.zero == 3 and case.compiled))
    ]
    missing = set().union(*map(pairs, possible))
    chosen = []
    while missing:
        best = max(possible, key=lambda case: len(pairs(case) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def trial_of(case: Case) -> Trial:
    return Trial(
        model={"num_layers": 1, "num_kv_heads": case.kv_heads},
        parallel={"zero": case.zero},
        compute={"precision": case.precision, "recompute": case.recompute, "compile": case.compiled},
        optimizer=example(case.optimizer, clip_grad_norm=0.0),
        steps=1,
    )


def batch_of(case: Case) -> GlobalBatch:
    batch = next(global_batches(all_tokens=True))
    if case.documents:
        return batch
    place_BT = torch.arange(SEQ_LENGTH).expand_as(batch.positions)
    return replace(batch, documents=torch.zeros_like(batch.documents), positions=place_BT)


def plain_gradients(case: Case, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Returns the gradients by plain torch in `dtype`, for weights in the case's precision; micro-batches are added."""
    trial = trial_of(case)
    config = trial.model_config()
    model = Transformer(config, seq_length=SEQ_LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=SEED)
    model.to(DTYPES[trial.compute["precision"]]).to(device, dtype)
    batch = batch_of(case)
    parts = (getattr(batch, field.name).split(trial.micro_batch_size) for field in fields(batch))
    sums = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in model.named_parameters()}
    for tokens, targets, mask, positions, documents in zip(*parts, strict=True):
        attention_mask = AttentionMask.from_documents(documents, kernel="sdpa", dtype=dtype, device=device)
        hidden_TBD = model(tokens.to(device), attention_mask, positions.to(device))
        logits_BTV = model.logits(hidden_TBD).transpose(0, 1)
        loss = nn.functional.cross_entropy(logits_BTV[mask], targets[mask].to(device), reduction="sum")
        gradients = torch.autograd.grad(loss / int(batch.mask.sum()), list(model.parameters()))
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += gradient
    return sums


def kept_gradients(state: Mapping[str, Slice], optimizer: str) -> dict[str, Tensor]:
    """Returns the gradients of the first step, of which an optimizer's first moment keeps a share.

    Conda keeps it in the basis of its right or left singular vectors, on the shorter side of the matrix.
    """
    found = {}
    for name, part in state.items():
        parameter, _, kind = name.removeprefix("optimizer.").rpartition(".")
        moment = part.tensor.double()
        if kind == "rotated_exp_avg":
            basis = state[f"optimizer.{parameter}.basis"].tensor.double()
            moment, kind = moment @ basis.mT if moment.shape[0] >= moment.shape[1] else basis @ moment, "exp_avg"
        if kind in ("exp_avg", "momentum"):
            found[parameter] = moment / KEPT[optimizer, kind]
    return found


def errors_of(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns each gradient's error as a share of its norm."""
    assert found.keys() == wanted.keys()
    return {name: float((found[name] - right).norm() / right.norm()) for name, right in wanted.items()}


def mistakes(cases: Sequence[Case]) -> list[str]:
    """Returns a line for each gradient whose error is more than twice that of plain torch. To be run on a rank."""
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=60, store=HashStore())
    mesh = make_mesh(ParallelConfig(), timeout_seconds=60)
    references: dict[tuple[Any, ...], tuple[dict[str, Tensor], dict[str, float]]] = {}
    lines = []
    for case in cases:
        torch.compiler.reset()
        # On CPUs C++ takes ten seconds a case: after the first, what torch makes of a block is run as it is.
        backend = "inductor" if mesh.device.type == "cuda" or case == cases[0] else "aot_eager"
        nn.Module.compile = partialmethod(COMPILE, backend=backend)  # type: ignore[assignment]
        key = (case.precision, case.documents, case.kv_heads)
        if key not in references:
            right = plain_gradients(case, torch.float64, mesh.device)
            references[key] = (right, errors_of(plain_gradients(case, DTYPES[case.precision], mesh.device), right))
        right, plain_errors = references[key]
        _, parts = start(trial_of(case), mesh)
        parts.engine.train_step(local_micro_batches(batch_of(case), trial_of(case), mesh, parts), lr=1e-3)
        errors = errors_of(kept_gradients(parts.engine.state(saving=True), case.optimizer), right)
        typical = statistics.median(plain_errors.values())
        lines += [
            f"{case}: the gradient of {name} is off by {error:.1e}, and by {plain_errors[name]:.1e} in plain torch"
            for name, error in errors.items()
            if not error <= 2 * max(plain_errors[name], typical)
        ]
    return lines


COMPILED, EAGER = ([case for case in pairwise() if case.compiled is compiled] for compiled in (True, False))


def test_the_cases_are_few() -> None:
    assert len(COMPILED + EAGER) <= 40


def test_eager_gradients_are_as_near_to_float64_as_those_of_plain_torch() -> None:
    assert run_ranks(1, mistakes, EAGER, join=False, timeout=240) == [[]]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_compiled_gradients_are_as_near_to_float64_as_those_of_plain_torch() -> None:
    assert run_ranks(1, mistakes, COMPILED, join=False, timeout=300) == [[]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_on_a_gpu_are_as_near_to_float64_as_those_of_plain_torch() -> None:
    assert run_ranks(1, mistakes, EAGER + COMPILED, join=False, timeout=290) == [[]]
