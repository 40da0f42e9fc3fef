"""Counts the kernels of an eager training step on a GPU by their cause, with the time that a roofline gives them.

    python benchmarks/counted.py                      # 160M: 12 x 768, two micro-batches of 16 rows of 2048 tokens
    python benchmarks/counted.py --size 410M --operations
    python benchmarks/counted.py --cross-entropy torch
    python benchmarks/counted.py --compiled           # also estimates the launches with compiled blocks

The step is lehr's own, on one rank and on meta tensors, so that no GPU is needed: see counted_kernels.py. The time of
a kernel is the largest of its bytes over the bandwidth of the memory, its FLOPs over the fastest product of its kind,
and the time of the shortest kernel, all on an H200. Caches, and kernels that reach less than the bandwidth because of
the layout of their tensors, are not modelled. A record stands in counted.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from sys import path
from typing import get_args

import torch
import torch.distributed as dist
from torch import Tensor

path.insert(0, str(Path(__file__).parents[1]))

from counted_kernels import Kernel, KernelTrace
from gpu.models import model_of
from gpu.sizes import SEQ_LENGTH, SIZES, Size

from model.attention import AttentionMask
from model.loss_kernels import LossKernel, LossKernelName, loss_kernel_by
from optim.optimizer import OPTIMIZERS, OptimizerConfig
from parallel.chunk import MicroBatch, pipeline_chunks
from parallel.config import ParallelConfig
from parallel.engines.build_engine import build_engine
from parallel.engines.engine import Engine, EngineInputs
from parallel.mesh import make_mesh, start_processes, stop_processes
from parallel.parameter_shards import parameter_shards
from parallel.run_plan import run_plan

META = torch.device("meta")
BYTES_PER_SECOND = 4.3e12  # that H200s reach of their 4.8e12
FLOPS_BFLOAT16 = 779e12  # measured: a product of 8192 x 8192 matrices on an H200
FLOPS_FLOAT32 = 67e12  # of the data sheet, without TF32
FLOPS_ATTENTION = 334e12  # read off a chart of arXiv 2407.08608 (cuDNN, head 64, causal, 2048 tokens); not verified
SHORTEST_KERNEL_SECONDS = 2e-6  # an assumption: no measurement or source stands behind it

# Fused kernels that torch's compiler makes of a block's forward and backward pass, counted on a CPU: see counted.md.
FUSED_KERNELS_OF_A_BLOCK = 29
FUSED_CAUSES = ("norms", "rotary", "SwiGLU", "residual, embedding", "copies")

ROOT = Path(__file__).parents[1]
CAUSES = {
    "model/cross_entropy.py": "cross-entropy",
    "model/loss_kernels.py": "cross-entropy",
    "model/triton_kernels/loss.py": "cross-entropy",
    "model/norms.py": "norms",
    "model/position.py": "rotary",
    "model/mlps.py": "SwiGLU",
    "model/attention.py": "attention",
    "model/transformer.py": "residual, embedding",
    "parallel/engines/gradient_accumulation.py": "accumulation",
    "parallel/engines/sharded_optimizer_engine.py": "optimizer",
    "parallel/engines/parameter_all_gather.py": "optimizer",
    "parallel/engines/gradient_clipping.py": "optimizer",
    "optim/sums.py": "optimizer",
    **{f"optim/{name}.py": "optimizer" for name in ("adamw", "adamp", "conda", "muon", "projection", "sgdp")},
}


def count_step(
    size: Size,
    *,
    seq_length: int = SEQ_LENGTH,
    micro_batches: int = 2,
    optimizer: str = "adamw",
    cross_entropy: LossKernelName = "triton",
) -> list[Kernel]:
    """Traces the second step, eager and in bfloat16 on one rank, and returns its kernels in their order.

    The first step is not traced: what an optimizer does once in many steps (Conda's eigenvectors) it does in it.
    """
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=60, store=dist.HashStore())  # type: ignore[attr-defined]
    try:
        engine = _build_engine(
            size,
            _optimizer(optimizer),
            loss_kernel_by(cross_entropy),
            seq_length=seq_length,
            micro_batches=micro_batches,
        )
        batches = [_micro_batch(size.micro_batch_size, seq_length) for _ in range(micro_batches)]
        with KernelTrace(lambda file: None):  # which gives meta tensors values where a step reads some
            engine.train_step(batches, lr=1e-3)
        with KernelTrace(_cause_of_file) as trace:
            engine.train_step(batches, lr=1e-3)
    finally:
        stop_processes()
    return [dataclasses.replace(kernel, cause=_cause(kernel)) for kernel in trace.kernels]


def seconds(kernel: Kernel) -> float:
    """Returns the time that the roofline gives the kernels of one operation."""
    flops = FLOPS_FLOAT32 if kernel.dtype == torch.float32 else FLOPS_BFLOAT16
    if "attention" in kernel.name:
        flops = FLOPS_ATTENTION
    shortest = kernel.launches * SHORTEST_KERNEL_SECONDS
    return max(kernel.bytes / BYTES_PER_SECOND, kernel.flops / flops, shortest)


def launches_of(kernels: Iterable[Kernel], causes: Collection[str] | None = None) -> int:
    """Returns the launches of kernels of some causes, or of all."""
    return sum(kernel.launches for kernel in kernels if causes is None or kernel.cause in causes)


def compiled_launches(
    eager: Sequence[Kernel], of_fewer_layers: Sequence[Kernel], *, layers: int, micro_batches: int = 2
) -> int:
    """Estimates the launches of a step whose blocks are compiled. Products and attention stay as they are.

    `of_fewer_layers` is the eager step of the model with one layer less, which tells the kernels of a block from those
    of the embedding and the final norm.
    """
    of_a_layer = launches_of(eager, FUSED_CAUSES) - launches_of(of_fewer_layers, FUSED_CAUSES)
    return launches_of(eager) - layers * of_a_layer + layers * micro_batches * FUSED_KERNELS_OF_A_BLOCK


def table(kernels: Iterable[Kernel], *, name: str, key: str) -> list[str]:
    """Returns a Markdown table of launches, bytes and time by an attribute of the kernels, the longest time first."""
    launches: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    time: Counter[str] = Counter()
    for kernel in kernels:
        for group in (getattr(kernel, key), "all"):
            launches[group] += kernel.launches
            moved[group] += kernel.bytes
            time[group] += seconds(kernel)
    lines = [f"| {name} | launches | GB | ms |", "|---|---:|---:|---:|"]
    for group, its_time in time.most_common():
        lines.append(f"| {group} | {launches[group]:,} | {moved[group] / 1e9:.1f} | {1000 * its_time:.1f} |")
    return [*lines[:2], *lines[3:], lines[2]]


def _optimizer(name: str) -> OptimizerConfig:
    return OPTIMIZERS.parse({"name": name, "lr": 1e-3})


def _build_engine(
    size: Size, optimizer: OptimizerConfig, loss_kernel: LossKernel, *, seq_length: int, micro_batches: int
) -> Engine:
    parallel = ParallelConfig()
    mesh = dataclasses.replace(make_mesh(parallel, timeout_seconds=60), device=META)
    dtype = torch.bfloat16
    with META:
        chunks = pipeline_chunks(
            *(model_of(size), parallel, mesh),
            seq_length=seq_length,
            attend=_flash,
            loss_kernel=loss_kernel,
            recompute="none",
            dtype=dtype,
        )
    return build_engine(
        EngineInputs(
            chunks=chunks,
            shards=parameter_shards(
                [chunk.transformer for chunk in chunks], mesh.tensor, sequence=False, holds_tied_copy=False
            ),
            mesh=mesh,
            optimizer=optimizer,
            zero=parallel.zero,
            offload=False,
            dtype=dtype,
            micro_batches=micro_batches,
            plan=run_plan(model_of(size), seq_length=seq_length, steps=1),
        )
    )


def _flash(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, attention_mask: AttentionMask | None) -> Tensor:
    """The kernel that torch's scaled_dot_product_attention takes on a GPU; of meta tensors it takes none."""
    assert attention_mask is None
    out_BHTK: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q_BHTK, k_BGTK, v_BGTK, 0.0, True)[0]
    return out_BHTK


def _micro_batch(rows: int, seq_length: int) -> MicroBatch:
    tokens_BT = torch.empty(rows, seq_length, dtype=torch.int64, device=META)
    return MicroBatch(tokens_BT, tokens_BT, torch.empty(rows, seq_length, device=META), tokens_BT, None)


def _cause_of_file(file: Path) -> str | None:
    return CAUSES.get(str(file.relative_to(ROOT))) if file.is_relative_to(ROOT) else None


def _cause(kernel: Kernel) -> str:
    """Returns the cause to print: matrix products apart, and copies where no other cause owns them."""
    if kernel.is_product and kernel.cause not in ("norms", "optimizer"):
        return "products of the head" if kernel.cause == "cross-entropy" else "products of the blocks"
    if kernel.is_copy and kernel.cause in ("attention", "other"):
        return "copies"
    return kernel.cause


def main() -> None:
    """Prints the tables of one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="160M")
    parser.add_argument("--cross-entropy", choices=get_args(LossKernelName), default="triton", help="its kernel")
    parser.add_argument("--operations", action="store_true", help="print a table by operation too")
    parser.add_argument("--compiled", action="store_true", help="estimate the launches with compiled blocks too")
    parser.add_argument("--optimizer", choices=sorted(OPTIMIZERS.names()), default="adamw")
    given = parser.parse_args()
    size = SIZES[given.size]
    kernels = count_step(size, optimizer=given.optimizer, cross_entropy=given.cross_entropy)
    print(
        f"torch {torch.__version__}; {given.size}, eager, bfloat16, {given.optimizer}, "
        f"cross-entropy by {given.cross_entropy}"
    )
    print("\n".join(table(kernels, name="cause", key="cause")))
    copies = [kernel for kernel in kernels if kernel.is_copy]
    print(
        f"copies and casts of any cause: {sum(each.launches for each in copies):,} launches, "
        f"{1000 * sum(map(seconds, copies)):.1f} ms"
    )
    if given.compiled:
        smaller = dataclasses.replace(size, num_layers=size.num_layers - 1)
        fewer = count_step(smaller, optimizer=given.optimizer, cross_entropy=given.cross_entropy)
        print(f"with compiled blocks: about {compiled_launches(kernels, fewer, layers=size.num_layers):,} launches")
    if given.operations:
        print("\n".join(table(kernels, name="operation", key="name")))


if __name__ == "__main__":
    main()
