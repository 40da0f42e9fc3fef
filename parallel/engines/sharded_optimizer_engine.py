"""ZeRO 0 and 1 for any optimizer and any pipeline: whole parameters owned by data ranks, updated there, sent back.

A step: micro-batches through Megatron's schedule, gradients adding up in one flat float32 buffer; the few gradients
that tensor ranks hold in parts are summed; each owner's segment is reduced to it (ZeRO 1) or to all (ZeRO 0); one
all-reduce gives every rank the same loss and norm; owners clip and update, and what they have updated travels to the
others while they go on with the rest.

A head that is tied to the embedding of another stage computes with a copy of it: the copy's gradient goes to the first
stage, which alone has the optimizer's state and steps, and its weight comes back. So the two are one to the bit, in
whatever order the data ranks of each stage would have summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from optim.optimizer import Optimizer, OptimizerConfig, Param
from parallel.chunk import MicroBatch, PipelineChunk
from parallel.engines.diagnostics import Diagnostics
from parallel.engines.engine import Slice, StepResult
from parallel.engines.parameter_all_gather import ParameterAllGather
from parallel.engines.parameter_owners import FlatLayout, assign_owners, move_into_flat_buffers, sending_order, view_of
from parallel.engines.tensor_ranks import TensorAxisRanks
from parallel.mesh import Mesh
from parallel.parameter_shards import ParameterShard
from parallel.schedule import run_micro_batches


class ShardedOptimizerEngine:
    """See the module. `dtype` is that of weights in forward and backward; masters and state are float32."""

    def __init__(
        self,
        stages: Sequence[PipelineChunk],
        shards: Sequence[ParameterShard],
        mesh: Mesh,
        optimizer: OptimizerConfig,
        *,
        zero: int,
        offload: bool,
        dtype: torch.dtype,
    ) -> None:
        self._stages = stages
        self._mesh = mesh
        self._clip = optimizer.clip_grad_norm
        self._shared = zero == 1  # each data rank owns a share; else each owns all
        owner_count = mesh.data.size if self._shared else 1
        self._me = mesh.data.rank if self._shared else 0
        originals = [shard for shard in shards if not shard.copy]
        copies = [shard for shard in shards if shard.copy]
        costs = [optimizer.cost(shard.shape, shard.name) for shard in originals]
        owners = assign_owners(costs, owner_count)
        order = sending_order(originals, costs)
        self._layout = FlatLayout.of([originals[i] for i in order], [owners[i] for i in order], owner_count)
        masters = self._masters(torch.device("cpu") if offload else mesh.device, dtype)
        self._weights, self._gradients = move_into_flat_buffers(self._layout, dtype, mesh.device)
        layout_of_copies = FlatLayout.of(copies, [0] * len(copies), 1)
        _, self._gradients_of_copies = move_into_flat_buffers(layout_of_copies, dtype, mesh.device)
        own = slice(*self._layout.segments[self._me])
        self._own_weights, self._own_gradients = self._weights[own], self._gradients[own]
        self._master = self._own_weights if masters is None else masters
        self._master_gradients = self._own_gradients if not offload else torch.empty_like(self._master)
        self._owned = self._layout.owned_by(self._me)
        params = [
            Param(
                name=shard.name,
                weight=view_of(self._master, offset, shard),
                shape=shard.shape,
                dim=shard.dim,
                grad=view_of(self._master_gradients, offset, shard),
            )
            for shard, offset in self._owned
        ]
        self._optimizer: Optimizer = optimizer.build(params, TensorAxisRanks(mesh.tensor))
        self._views = {
            shard.name: view_of(gradients, offset, shard)
            for layout, gradients in (
                (self._layout, self._gradients),
                (layout_of_copies, self._gradients_of_copies),
            )
            for shard, offset in zip(layout.order, layout.offsets, strict=True)
        }
        tied = mesh.embedding is not None and stages[0].transformer.config.tied_embeddings
        self._tied = [shard for shard in shards if tied and shard.name == "embedding.weight"]
        self._messages = ParameterAllGather(self._layout, mesh.data, weights=self._weights, own_master=masters)
        reports = mesh.tensor.rank == 0 and (self._shared or mesh.data.rank == 0)
        self._diagnostics = Diagnostics(self._optimizer, reports=reports)
        self._counted = [
            self._views[shard.name]
            for shard, owner in zip(originals, owners, strict=True)
            if owner == self._me
            and (shard.dim is not None or mesh.tensor.rank == 0)
            and (self._shared or mesh.data.rank == 0)
        ]

    @property
    def optimizer_steps(self) -> int:
        return self._optimizer.step_count

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        nll = run_micro_batches(self._stages, micro_batches, backward=True)
        self._sum_partial_gradients()
        self._reduce_over_data()
        nll_sum, square = self._over_world(nll, self._squared_norm())
        norm = math.sqrt(square) if square >= 0 else math.nan
        finite = math.isfinite(norm) and math.isfinite(nll_sum)
        if finite:
            self._update(lr, norm)
        self._gradients.zero_()
        self._gradients_of_copies.zero_()
        return StepResult(nll_sum, norm, skipped=not finite, diagnostics=self._diagnostics.of_all_ranks())

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        nll = run_micro_batches(self._stages, micro_batches, backward=False)
        return self._over_world(nll, nll.new_zeros(()))[0]

    def state(self, *, saving: bool) -> dict[str, Slice]:
        if saving and not self._shared and self._mesh.data.rank != 0:
            return {}
        slices = {
            f"model.{shard.name}": Slice(view_of(self._master, offset, shard), shard.dim)
            for shard, offset in self._owned
        }
        for key, state in self._optimizer.state().items():
            slices[f"optimizer.{key}"] = Slice(state.tensor, state.dim)
        return slices

    def loaded(self, *, optimizer_steps: int) -> None:
        self._optimizer.step_count = optimizer_steps
        self._messages.exchange_all()
        self._send_tied_weight()

    def _masters(self, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """Own float32 weights apart from the model's, or None where the model's own serve."""
        if dtype == torch.float32 and device == self._mesh.device:
            return None
        start, end = self._layout.segments[self._me]
        masters = torch.zeros(end - start, dtype=torch.float32, device=device)
        for shard, offset in self._layout.owned_by(self._me):
            view_of(masters, offset, shard).copy_(shard.parameter.data)
        return masters

    def _sum_partial_gradients(self) -> None:
        mesh = self._mesh
        partial = [self._views[shard.name] for shard in self._layout.order if shard.partial]
        if partial:
            flat = torch.cat([gradient.flatten() for gradient in partial])
            dist.all_reduce(flat, group=mesh.tensor.group)
            for gradient, total in zip(partial, flat.split([g.numel() for g in partial]), strict=True):
                gradient.copy_(total.view_as(gradient))
        for shard in self._tied:
            dist.reduce(self._views[shard.name], group_dst=0, group=mesh.embedding)

    def _send_tied_weight(self) -> None:
        for shard in self._tied:
            dist.broadcast(shard.parameter.data, group_src=0, group=self._mesh.embedding)

    def _reduce_over_data(self) -> None:
        data = self._mesh.data
        if data.size == 1:
            return
        if not self._shared:
            dist.all_reduce(self._gradients, group=data.group)
            return
        pending = [
            dist.reduce(self._gradients[start:end], group_dst=owner, group=data.group, async_op=True)
            for owner, (start, end) in enumerate(self._layout.segments)
            if end > start
        ]
        for work in pending:
            work.wait()

    def _squared_norm(self) -> Tensor:
        """Of the parameters that this rank counts: each of the model is counted by one rank."""
        if not self._counted:
            return torch.zeros((), dtype=torch.float64, device=self._mesh.device)
        return torch.stack(torch._foreach_norm(self._counted)).double().square().sum()

    def _over_world(self, nll: Tensor, square: Tensor) -> tuple[float, float]:
        """Sums over all ranks; the nll stands on the last stage of each tensor rank, and is counted once."""
        if self._mesh.tensor.rank != 0:
            nll = torch.zeros_like(nll)
        sums = torch.stack([nll.double(), square.double()])
        dist.all_reduce(sums)
        nll_sum, total = sums.tolist()
        return nll_sum, total

    def _update(self, lr: float, norm: float) -> None:
        if self._clip and norm > self._clip:
            self._own_gradients.mul_(self._clip / norm)
        if self._master_gradients is not self._own_gradients:
            self._master_gradients.copy_(self._own_gradients)
        self._messages.exchange(self._optimizer.updates(lr=lr))
        self._send_tied_weight()
