"""A check before a run that compiles: a compiled block must give the gradients of the same block run eagerly.

A release of torch can compile wrongly without a word: 2.11 gave zero for the gradient of many functions with a backward
pass of their own (pytorch/pytorch issue 180642).

Shapes: t, T sequence (a rank's part, full), B batch, D hidden_size.
"""

from __future__ import annotations

import contextlib

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


def check_compiled_block(
    model: ModelConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    *,
    compute: ComputeConfig,
    seq_length: int,
    micro_batch_size: int,
) -> None:
    """Compares the gradients of a compiled block with an eager one's, for rows of two documents. A collective.

    The block has the run's shapes, so that its compilation serves the run. Raises UserError, on every rank, if the
    gradients differ.
    """

    def compare() -> None:
        block, inputs = _block(model, parallel, mesh, compute, seq_length, micro_batch_size)
        with redirect_cuda_to_cpu() or contextlib.nullcontext():  # as the schedules run: torch compiles for the mode
            eager = _gradients(block, *inputs)
            block.compile()
            name, difference = _largest_difference(eager, _gradients(block, *inputs))
        if not difference <= _TOLERANCE[compute.dtype]:  # or NaN
            raise UserError(
                f"train.compile = true: torch {torch.__version__} computes other gradients in a compiled block than in "
                f"an eager one (that of {name} differs by {difference:.0%} of its norm); set train.compile=false, or "
                "install another version of torch"
            )

    agree(compare)


_Inputs = tuple[Tensor, object, AttentionMask | None]


def _block(
    model: ModelConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    compute: ComputeConfig,
    seq_length: int,
    micro_batch_size: int,
) -> tuple[Block, _Inputs]:
    """Returns a block with weights drawn here, and its inputs."""
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
    place_T = torch.arange(seq_length)
    documents_BT = (place_T >= seq_length // 2).int().repeat(micro_batch_size, 1)
    attention_mask = AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=compute.dtype, device=mesh.device)
    positions_BT = place_T.repeat(micro_batch_size, 1).to(mesh.device)
    length = seq_length // parallel.tensor if parallel.sequence else seq_length
    x_tBD = torch.randn(
        length, micro_batch_size, model.hidden_size, generator=generator, device=mesh.device, dtype=compute.dtype
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
