"""The product of an input with sharded columns, and the collectives around it, as one operator of torch.

torch.compile traces no collective that is waited for later, so this is one node to it, and a block stays one graph.
Operation by operation it is Megatron's linear_with_grad_accumulation_and_async_allreduce, which would keep the joined
weights for the backward pass: as much memory as the weights, for every micro-batch in flight. Here they are joined once
more, if they have to be copied for that.

Shapes: t, T sequence (a rank's part, full), B batch, N = T·B tokens, D hidden_size, O a rank's outputs of all columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optim.parameters import flat_view, runs_in_memory
from parallel.waiting import wait_for_collectives


def project(
    x_tBD: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, sequence: bool, group: dist.ProcessGroup
) -> Tensor:
    """Returns x · [w1; w2; ...]ᵀ + [b1; b2; ...] as [T, B, O], with weights that are sharded over their outputs.

    `sequence`: each rank has its part of the sequence. `biases` may be empty.
    """
    out_TBO: Tensor = torch.ops.lehr.project(x_tBD, [*weights], [*biases], sequence, group.group_name)
    return out_TBO


def _project(x_tBD: Tensor, weights: list[Tensor], biases: list[Tensor], sequence: bool, group: str) -> Tensor:
    x_TBD = x_tBD
    if sequence:
        x_TBD, gathering = _start_gather(x_tBD, _group_of(group))
        wait_for_collectives([gathering])
    out_TBO = torch.matmul(x_TBD, joined(weights).t())
    return out_TBO.add_(joined(biases)) if biases else out_TBO


def _project_backward(
    grad_TBO: Tensor, x_tBD: Tensor, weights: list[Tensor], bias: bool, sequence: bool, group: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, of the joined weights and of the joined biases (of none: an empty one)."""
    ranks = _group_of(group)
    x_TBD, gathering = _start_gather(x_tBD, ranks) if sequence else (x_tBD, None)
    grad_TBD = grad_TBO.matmul(joined(weights))
    if gathering is not None:
        wait_for_collectives([gathering])
    # The sum over the ranks runs while the weights' gradient is computed.
    grad_tBD = x_tBD.new_empty(x_tBD.shape) if sequence else grad_TBD
    if sequence:
        summing = dist.reduce_scatter_tensor(grad_tBD, grad_TBD, group=ranks, async_op=True)
    else:
        summing = dist.all_reduce(grad_TBD, group=ranks, async_op=True)
    grad_NO, x_ND = grad_TBO.contiguous().flatten(0, 1), x_TBD.contiguous().flatten(0, 1)
    grad_OD = grad_NO.t().matmul(x_ND)
    grad_O = grad_NO.sum(0) if bias else grad_NO.new_empty(0)
    wait_for_collectives([summing])
    return grad_tBD, grad_OD, grad_O


def _project_shape(x_tBD: Tensor, weights: list[Tensor], biases: list[Tensor], sequence: bool, group: str) -> Tensor:
    length = x_tBD.shape[0] * (_group_of(group).size() if sequence else 1)
    return x_tBD.new_empty(length, x_tBD.shape[1], sum(weight.shape[0] for weight in weights))


def _project_backward_shapes(
    grad_TBO: Tensor, x_tBD: Tensor, weights: list[Tensor], bias: bool, sequence: bool, group: str
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = grad_TBO.shape[-1]
    return (
        x_tBD.new_empty(x_tBD.shape),
        x_tBD.new_empty(outputs, x_tBD.shape[-1]),
        x_tBD.new_empty(outputs if bias else 0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x_tBD, weights, biases, ctx.sequence, ctx.group = inputs
    ctx.save_for_backward(x_tBD, *weights)
    ctx.bias = bool(biases)


def _backward(ctx: Any, grad_TBO: Tensor) -> tuple[Any, ...]:
    x_tBD, *weights = ctx.saved_tensors
    given = (grad_TBO, x_tBD, weights, ctx.bias, ctx.sequence, ctx.group)
    grad_tBD, grad_OD, grad_O = torch.ops.lehr.project_backward(*given)
    sizes = [weight.shape[0] for weight in weights]
    return grad_tBD, [*grad_OD.split(sizes)], [*grad_O.split(sizes)] if ctx.bias else [], None, None


def _group_of(name: str) -> dist.ProcessGroup:
    """Returns the group of a name: operators take no process group."""
    group: dist.ProcessGroup = torch._C._distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]
    return group


def _start_gather(x_tBD: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, dist.Work]:
    """Returns [T, B, D], which is complete when the work is."""
    x_TBD = x_tBD.new_empty(x_tBD.shape[0] * group.size(), *x_tBD.shape[1:])
    gathering = dist.all_gather_into_tensor(x_TBD, x_tBD.contiguous(), group=group, async_op=True)
    assert gathering is not None
    return x_TBD, gathering


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Returns the parts along their first dim as one tensor: a view where they are neighbours in memory, else a copy.

    In the flat buffers of an engine, weights of one shape and owner are neighbours: gate and up, k and v, and q too if
    there are as many key-value heads as query heads.
    """
    if len(parts) == 1:
        return parts[0]
    if len(runs_in_memory(parts)) > 1:
        return torch.cat(tuple(parts))
    return flat_view(parts).view(-1, *parts[0].shape[1:])


# Not by torch.library.custom_op: that imports torch's compiler, a second of every rank's first step.
_LIBRARY = torch.library.Library("lehr", "FRAGMENT")
_LIBRARY.define("project(Tensor x, Tensor[] weights, Tensor[] biases, bool sequence, str group) -> Tensor")
_LIBRARY.define(
    "project_backward(Tensor grad, Tensor x, Tensor[] weights, bool bias, bool sequence, str group) "
    "-> (Tensor, Tensor, Tensor)"
)
for _name, _eagerly, _shapes in (
    ("project", _project, _project_shape),
    ("project_backward", _project_backward, _project_backward_shapes),
):
    _LIBRARY.impl(_name, _eagerly, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lehr::{_name}", _shapes, lib=_LIBRARY)
torch.library.register_autograd("lehr::project", _backward, setup_context=_save, lib=_LIBRARY)
