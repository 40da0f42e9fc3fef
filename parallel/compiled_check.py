"""A check before a run that compiles: a compiled block must give the gradients of the same block run eagerly.

A release of torch can compile wrongly without a word: 2.11 gave zero for the gradient of many functions with a backward
pass of their own (pytorch/pytorch issue 180642).

Shapes: t, T sequence (a rank's part, full), B batch, D hidden_size.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import AttentionMask, attend_by
from model.config import ModelConfig
from model.transformer import Block
from parallel.agree import agree
from parallel.attention_kernel import usable_kernel
from parallel.build import ComputeConfig
from parallel.chunk import layers_of
from parallel.config import ParallelConfig
from parallel.mesh import Mesh
from parallel.patches.cpu_device import redirect_cuda_to_cpu
from settings import UserError

# Largest difference of a gradient that rounding explains, as a share of its norm. A gradient may be rounding alone (of
# the keys' bias, which softmax does not see): then it is compared with this share of the largest gradient's norm.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_SMALLEST_SHARE = 1e-3


@dataclass(frozen=True)
class RunShapes:
    """What a block of a run is built from, besides `ComputeConfig`."""

    model: ModelConfig
    parallel: ParallelConfig
    seq_length: int
    micro_batch_size: int


def check_compiled_block(shapes: RunShapes, mesh: Mesh, *, compute: ComputeConfig) -> None:
    """Compares the gradients of a compiled block with an eager one's, for rows of two documents. A collective.

    The block has the run's shapes, so that its compilation serves the run. Raises UserError, on every rank, if the
    gradients differ.
    """

    def check() -> None:
        difference, _ = _compile(shapes, mesh, compute)
        if difference is not None:
            raise UserError(
                f"train.compile = true: {difference}; set train.compile=false, or install another version of torch"
            )

    agree(check)


def why_not_compiled(shapes: RunShapes, mesh: Mesh, *, compute: ComputeConfig) -> str | None:
    """Returns why the blocks of a run should not be compiled, on any rank, or None. A collective.

    Either they cannot be compiled, or their gradients would differ (see `check_compiled_block`), or a block is several
    graphs, between which nothing is fused.
    """
    if shapes.parallel.zero == 3:
        return "with parallel.zero = 3 layers have weights only while they run"

    def find() -> str | None:
        try:
            difference, breaks = _compile(shapes, mesh, compute)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler raises: no C++ compiler, an operation that it does not know
            return f"torch.compile fails here ({type(error).__name__}: {str(error)[:200]})"
        return difference or (f"torch breaks a block into {breaks + 1} graphs" if breaks else None)

    return next((reason for reason in agree(find) if reason is not None), None)


def _compile(shapes: RunShapes, mesh: Mesh, compute: ComputeConfig) -> tuple[str | None, int]:
    """Returns how the gradients of a compiled block differ from an eager one's, or None; and its graph's breaks."""
    from torch._dynamo.utils import counters  # torch's compiler, which takes a second to import

    block, inputs = _block(shapes, mesh, compute)
    breaks = sum(counters["graph_break"].values())
    with redirect_cuda_to_cpu() or contextlib.nullcontext():  # as the schedules run: torch compiles for the mode
        eager = _gradients(block, *inputs)
        block.compile()
        name, difference = _largest_difference(eager, _gradients(block, *inputs))
    breaks = sum(counters["graph_break"].values()) - breaks
    if difference <= _TOLERANCE[compute.dtype]:  # not NaN
        return None, breaks
    return (
        f"torch {torch.__version__} computes other gradients in a compiled block than in an eager one (that of {name} "
        f"differs by {difference:.0%} of its norm)"
    ), breaks


_Inputs = tuple[Tensor, object, AttentionMask | None]


def _block(shapes: RunShapes, mesh: Mesh, compute: ComputeConfig) -> tuple[Block, _Inputs]:
    """Returns a block with weights drawn here, and its inputs."""
    model, parallel = shapes.model, shapes.parallel
    kernel = usable_kernel(compute.attention, model, mesh, dtype=compute.dtype)
    layers = layers_of(model, parallel, mesh, dtype=compute.dtype)
    block = Block(model, 0, layers=layers, attend=attend_by(kernel), recompute=compute.recompute)
    block.to(mesh.device, compute.dtype)
    generator = torch.Generator(mesh.device).manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            is_matrix = parameter.dim() > 1
            parameter.normal_(
                0.0 if is_matrix else 1.0, parameter.shape[-1] ** -0.5 if is_matrix else 0.1, generator=generator
            )
    place_T = torch.arange(shapes.seq_length)
    documents_BT = (place_T >= shapes.seq_length // 2).int().repeat(shapes.micro_batch_size, 1)
    attention_mask = AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=compute.dtype, device=mesh.device)
    positions_BT = place_T.repeat(shapes.micro_batch_size, 1).to(mesh.device)
    length = shapes.seq_length // (parallel.tensor if parallel.sequence else 1)
    x_tBD = torch.randn(
        length, shapes.micro_batch_size, model.hidden_size, generator=generator, device=mesh.device, dtype=compute.dtype
    )
    return block, (x_tBD.requires_grad_(), model.position.rotation(positions_BT, model.head_size), attention_mask)


def _gradients(block: Block, x_tBD: Tensor, *inputs: object) -> dict[str, Tensor]:
    """Returns the gradients of the input and of each parameter, for an output whose gradient is random."""
    wanted = {"the input": x_tBD, **dict(block.named_parameters())}
    out_tBD = block(x_tBD, *inputs)
    generator = torch.Generator(out_tBD.device).manual_seed(1)
    pull_tBD = torch.randn(out_tBD.shape, generator=generator, device=out_tBD.device).to(out_tBD.dtype)
    return dict(zip(wanted, torch.autograd.grad(out_tBD, list(wanted.values()), pull_tBD), strict=True))


def _largest_difference(eager: dict[str, Tensor], compiled: dict[str, Tensor]) -> tuple[str, float]:
    """Returns the name of the gradient that differs most, and its difference as a share of its norm."""
    norms = {name: float(gradient.double().norm()) for name, gradient in eager.items()}
    least = _SMALLEST_SHARE * max(norms.values())
    shares = {
        name: float((gradient.double() - eager[name].double()).norm()) / max(norms[name], least)
        for name, gradient in compiled.items()
    }
    return max(shares.items(), key=lambda item: item[1] if item[1] == item[1] else torch.inf)
