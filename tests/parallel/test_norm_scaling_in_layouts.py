"""LayerNorm Scaling in every layout: each chunk's blocks have the factor of their global number.

The oracle is a model without the method whose block norms' outputs are multiplied by 1/sqrt(l), l counted from 1, from
outside. Logits and gradients of a batch equal its; where no matrix is cut they equal one rank's to the bit, in float32
and bfloat16; so do sequence parallelism and plain tensor parallelism each other, and recomputation and none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from parallel_runs import (
    SEED,
    SEQ_LENGTH,
    GlobalBatch,
    Trial,
    full_tensor,
    global_batches,
    local_micro_batches,
    merged_weights,
    ranks_of,
    start,
)
from processes import run_ranks
from torch import Tensor, nn

from model.attention import KERNELS, AttentionMask
from model.init import initialise
from model.layers import TorchLayers
from model.transformer import Transformer
from optim.adamw import AdamWConfig
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "tensor2": {"tensor": 2},
    "tensor2-sequence": {"tensor": 2, "sequence": True},
    "pipeline2": {"pipeline": 2},
    "pipeline2-interleaved": {"pipeline": 2, "virtual_stages": 2},
    "pipeline4": {"pipeline": 4},
    "data2-zero0": {"data": 2, "zero": 0},
    "data2-zero1": {"data": 2, "zero": 1},
    "tensor2-data2-zero1": {"tensor": 2, "data": 2, "zero": 1},
    "pipeline2-data2-zero1": {"pipeline": 2, "data": 2, "zero": 1},
    "tensor2-pipeline2-sequence": {"tensor": 2, "pipeline": 2, "sequence": True},
    "tensor2-pipeline2-data2-zero1": {"tensor": 2, "pipeline": 2, "data": 2, "zero": 1},
}
QUICK = ("one", "pipeline2-interleaved", "tensor2-sequence")
COMPUTE: dict[str, dict[str, Any]] = {
    "float32": {},
    "selective": {"recompute": "selective"},
    "full": {"recompute": "full"},
    "bfloat16": {"precision": "bfloat16"},
}
SMALL: dict[str, Any] = {"hidden_size": 32, "ffn_size": 48, "qk_norm": False}
SCALED = {**SMALL, "norm_scaling": "layernorm_scaling"}
# Its first moment after one step, unclipped, is the gradient.
READS_GRADIENTS = AdamWConfig(lr=1e-3, beta1=0.0, clip_grad_norm=0.0)
layouts = pytest.mark.parametrize(
    "layout", [layout if layout in QUICK else pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS]
)


@dataclass(frozen=True)
class EvaluationRecord:
    """Returns a rank's factors by chunk, its data rank's logits [T, B, V] if it has any, and its gradients."""

    chunks: list[dict[str, tuple[float, float]]]
    data_rank: int
    logits: list[Tensor]
    gradients: dict[str, Tensor]


def batch() -> GlobalBatch:
    return next(global_batches(all_tokens=True))


def see(trial: Trial, mesh: Mesh) -> EvaluationRecord:
    _, parts = start(trial, mesh)
    chunks = [
        {
            number: (block.attention_norm.scale, block.mlp_norm.scale)
            for number, block in chunk.transformer.layers.items()
        }
        for chunk in parts.chunks
    ]
    logits: list[Tensor] = []

    def note(transformer: Transformer, args: object, x_tBD: Tensor) -> None:
        part_TBv = transformer.logits(x_tBD).detach().contiguous()
        slices = [torch.empty_like(part_TBv) for _ in range(mesh.tensor.size)]
        dist.all_gather(slices, part_TBv, group=mesh.tensor.group)
        logits.append(torch.cat(slices, -1))

    if parts.chunks[-1].last:
        parts.chunks[-1].transformer.register_forward_hook(note)
    result = parts.engine.train_step(local_micro_batches(batch(), trial, mesh, parts), lr=0.0)
    assert not result.skipped
    gradients = {
        name.removeprefix("optimizer.").removesuffix(".exp_avg"): full_tensor(part, mesh)
        for name, part in parts.engine.state(saving=True).items()
        if name.endswith(".exp_avg")
    }
    return EvaluationRecord(chunks, mesh.data.rank, logits, gradients)


def on_a_rank(parallel: dict[str, Any], model: dict[str, Any]) -> dict[str, EvaluationRecord]:
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    return {
        name: see(Trial(model=model, parallel=parallel, compute=values, optimizer=READS_GRADIENTS), mesh)
        for name, values in COMPUTE.items()
    }


@dataclass(frozen=True)
class Pass:
    """Logits [T, rows, V] and gradients of the whole model."""

    logits: Tensor
    gradients: dict[str, Tensor]


@cache
def seen(layout: str) -> dict[str, list[EvaluationRecord]]:
    """Returns each rank's view, by compute config."""
    by_rank = run_ranks(ranks_of(LAYOUTS[layout]), on_a_rank, LAYOUTS[layout], SCALED, timeout=240)
    return {name: [views[name] for views in by_rank] for name in COMPUTE}


def put_together(layout: str, compute: str) -> Pass:
    ranks = seen(layout)[compute]
    by_data_rank = {rank.data_rank: torch.cat(rank.logits, 1) for rank in reversed(ranks) if rank.logits}
    logits = torch.cat([by_data_rank[data_rank] for data_rank in sorted(by_data_rank)], 1)
    return Pass(logits, merged_weights([rank.gradients for rank in ranks]))


def multiplied(factor: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, args, out: out * factor


@cache
def oracle() -> Pass:
    config = Trial(model=SMALL).model_config()
    model = Transformer(config, seq_length=SEQ_LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=SEED)
    for name, module in model.named_modules():
        if name.endswith((".attention_norm", ".mlp_norm")):
            module.register_forward_hook(multiplied(1 / math.sqrt(int(name.split(".")[1]) + 1)))
    rows = batch()
    attention_mask = AttentionMask.from_documents(rows.documents, kernel="sdpa", dtype=torch.float32)
    logits_TBV = model.logits(model(rows.tokens, attention_mask, rows.positions))
    nn.functional.cross_entropy(logits_TBV.transpose(0, 1)[rows.mask], rows.targets[rows.mask]).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return Pass(logits_TBV.detach(), gradients)


@layouts
def test_every_chunk_has_the_factors_of_its_global_layers(layout: str) -> None:
    parallel = ParallelConfig(**LAYOUTS[layout])
    for ranks in seen(layout).values():
        for rank in ranks:
            assert len(rank.chunks) == parallel.virtual_stages
            for chunk in rank.chunks:
                assert chunk == {number: ((int(number) + 1) ** -0.5,) * 2 for number in chunk}
        held = [number for rank in ranks for chunk in rank.chunks for number in chunk]
        assert sorted(held) == sorted([*"0123"] * (parallel.tensor * parallel.data))
    if layout == "pipeline2-interleaved":
        assert [[*chunk] for chunk in seen(layout)["float32"][0].chunks] == [["0"], ["2"]]


@layouts
def test_logits_and_gradients_are_the_oracle_s(layout: str) -> None:
    found, wanted = put_together(layout, "float32"), oracle()
    assert float((found.logits - wanted.logits).norm() / wanted.logits.norm()) < 1e-5
    assert found.gradients.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        assert float((found.gradients[name] - gradient).norm() / gradient.norm()) < 1e-4, name


@layouts
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_where_no_matrix_is_cut_logits_are_one_rank_s_to_the_bit(layout: str, compute: str) -> None:
    found = put_together(layout, compute).logits
    if "tensor2" not in layout:
        assert torch.equal(found, put_together("one", compute).logits)
    elif "sequence" in layout or "pipeline" in layout:
        assert torch.equal(found, put_together("tensor2", compute).logits)


@layouts
def test_bfloat16_has_the_same_factors(layout: str) -> None:
    found, wanted = put_together(layout, "bfloat16").logits.float(), oracle().logits
    assert float((found - wanted).norm() / wanted.norm()) < 1e-2


@layouts
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputed_blocks_give_the_same_bits(layout: str, recompute: str) -> None:
    found, wanted = put_together(layout, recompute), put_together(layout, "float32")
    assert torch.equal(found.logits, wanted.logits)
    assert all(torch.equal(found.gradients[name], gradient) for name, gradient in wanted.gradients.items())
