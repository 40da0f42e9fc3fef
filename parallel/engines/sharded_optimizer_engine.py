"""The engine of ZeRO 0 and 1, for any optimizer and any pipeline: data ranks own complete parameters.

A step:
1. The micro-batches run through Megatron's schedule; gradients accumulate in one flat float32 buffer.
2. Gradients of which each tensor rank holds a part are summed over the tensor ranks.
3. Gradients are reduced over the data ranks: each owner's segment to its owner (ZeRO 1), or all to all (ZeRO 0).
4. One all-reduce over the world gives every rank the loss and the gradient norm.
5. Each owner clips its gradients and steps its optimizer, and sends updated parameters while it computes the next.

A head that is tied to the embedding of another stage computes with a copy of it. The copy's gradient is added to the
first stage's, which alone has optimizer state and steps, and the updated weight is sent back. So the two stay equal to
the bit, in whatever order the data ranks of each stage sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from optim.optimizer import Optimizer
from optim.parameters import Param, flat_view, runs_in_memory
from optim.sums import sum_of_squares
from optim.transformed import TransformedOptimizer
from optim.transforms.base import TransformInputs
from optim.transforms.chain import TransformChain, moments_by_parameter
from parallel.chunk import MicroBatch
from parallel.engines import gradient_clipping
from parallel.engines.diagnostics import Diagnostics
from parallel.engines.engine import EngineInputs, HeldBytes, StepResult, held_bytes
from parallel.engines.flat_buffers import FlatLayout, move_into_flat_buffers, view_of
from parallel.engines.gradient_accumulation import GradientAccumulation
from parallel.engines.parameter_all_gather import ParameterAllGather
from parallel.engines.parameter_owners import assign_owners, update_order
from parallel.engines.slices import Slice
from parallel.engines.tensor_ranks import TensorAxisRanks, sum_over_world
from parallel.host_memory import host_empty
from parallel.schedule import run_micro_batches
from parallel.spans import span
from parallel.waiting import wait_for_collectives


class ShardedOptimizerEngine:
    """This rank's weights and gradients in flat buffers, and the optimizer of the parameters that it owns."""

    def __init__(self, inputs: EngineInputs) -> None:
        mesh, config, dtype = inputs.mesh, inputs.optimizer, inputs.dtype
        self._chunks, self._shards, self._mesh = inputs.chunks, inputs.shards, mesh
        self._max_norm = config.clip_grad_norm
        self._sharded = inputs.zero == 1  # each data rank owns some of the parameters; otherwise each owns all
        owner_count = mesh.data.size if self._sharded else 1
        self._owner = mesh.data.rank if self._sharded else 0
        originals = [shard for shard in inputs.shards if not shard.copy]
        copies = [shard for shard in inputs.shards if shard.copy]
        costs = [config.cost(shard.shape, shard.name) for shard in originals]
        owners = assign_owners(costs, owner_count)
        order = update_order(originals, costs)
        self._layout = FlatLayout.of([originals[i] for i in order], [owners[i] for i in order], owner_count)
        masters = self._separate_masters(inputs)
        self._accumulation = GradientAccumulation(mesh.device)
        self._weights, self._gradients = move_into_flat_buffers(self._layout, dtype, mesh.device, self._accumulation)
        layout_of_copies = FlatLayout.of(copies, [0] * len(copies), 1)
        _, self._gradients_of_copies = move_into_flat_buffers(layout_of_copies, dtype, mesh.device, self._accumulation)
        segment = slice(*self._layout.segments[self._owner])
        self._owned_gradients = self._gradients[segment]
        self._masters_are_weights = masters is None
        self._masters = self._weights[segment] if masters is None else masters
        self._master_gradients = self._owned_gradients
        if inputs.offload:
            self._master_gradients = host_empty(self._masters.shape, mesh.device)
        self._owned = self._layout.owned_by(self._owner)
        self._optimizer, self._transforms = self._build_optimizer(inputs)
        self._gradient_of = {
            shard.name: view_of(gradients, offset, shard)
            for layout, gradients in ((self._layout, self._gradients), (layout_of_copies, self._gradients_of_copies))
            for shard, offset in zip(layout.order, layout.offsets, strict=True)
        }
        tied = mesh.embedding is not None and inputs.chunks[0].transformer.config.tied_embeddings
        self._tied = [shard for shard in inputs.shards if tied and shard.name == "embedding.weight"]
        self._all_gather = ParameterAllGather(self._layout, mesh.data, weights=self._weights, masters=masters)
        reports = mesh.tensor.rank == 0 and (self._sharded or mesh.data.rank == 0)
        self._diagnostics = Diagnostics(self._optimizer, reports=reports)
        counted = [
            self._gradient_of[shard.name]
            for shard, owner in zip(originals, owners, strict=True)
            if owner == self._owner and gradient_clipping.is_counted(shard, mesh, sharded_over_data=self._sharded)
        ]
        if mesh.device.type != "cpu":  # where a kernel for each would take longer than the sum
            counted.sort(key=Tensor.storage_offset)
            counted = [flat_view(counted[run]) for run in runs_in_memory(counted)]
        self._counted = counted

    @property
    def optimizer_steps(self) -> int:
        return self._optimizer.step_count

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        self._accumulation.begin_step()
        nll = run_micro_batches(self._chunks, micro_batches, backward=True)
        self._accumulation.end_step()
        with span("reduction"):
            self._sum_partial_gradients()
            self._reduce_over_data()
            squared_norm = sum_of_squares(self._counted, self._mesh.device)
            nll_sum, total_squared_norm = self._sum_over_world(nll, squared_norm)
        norm = gradient_clipping.norm_of(total_squared_norm)
        finite = gradient_clipping.is_finite(norm) and math.isfinite(nll_sum)
        if finite:
            with span("update"):
                self._clip_and_update(lr, norm)
        return StepResult(
            nll_sum,
            norm,
            skipped=not finite,
            diagnostics=self._diagnostics.of_all_ranks() | self._transforms.metrics(),
            zeroed_weights=self._transforms.zeroed_weights,
        )

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        nll = run_micro_batches(self._chunks, micro_batches, backward=False)
        return self._sum_over_world(nll, nll.new_zeros(()))[0]

    def state(self, *, saving: bool) -> dict[str, Slice]:
        if saving and not self._sharded and self._mesh.data.rank != 0:
            return {}
        slices = {
            f"model.{shard.name}": Slice(view_of(self._masters, offset, shard), shard.dim)
            for shard, offset in self._owned
        }
        for key, state in self._optimizer.state().items():
            slices[f"optimizer.{key}"] = Slice(state.tensor, state.dim)
        return slices

    def loaded(self, *, optimizer_steps: int) -> None:
        self._optimizer.step_count = optimizer_steps
        self._all_gather.gather_all()
        self._send_tied_weight()

    def replicated_weights(self) -> dict[str, Tensor]:
        return {shard.name: shard.parameter.data for shard in self._shards}

    def held_bytes(self) -> HeldBytes:
        gradients = [self._gradients, self._gradients_of_copies]
        masters = [] if self._masters_are_weights else [self._masters]
        if self._master_gradients is not self._owned_gradients:
            gradients.append(self._master_gradients)
        return held_bytes(
            self._mesh.device,
            weights=self.replicated_weights().values(),
            gradients=gradients,
            optimizer=[*masters, *(state.tensor for state in self._optimizer.state().values())],
        )

    def _separate_masters(self, inputs: EngineInputs) -> Tensor | None:
        """Returns float32 masters of the owned parameters, or None where the float32 weights serve."""
        device = self._mesh.device
        start, end = self._layout.segments[self._owner]
        if inputs.offload and (inputs.dtype, device.type) != (torch.float32, "cpu"):
            return host_empty((end - start,), device).zero_()
        if inputs.dtype != torch.float32:
            return torch.zeros(end - start, dtype=torch.float32, device=device)
        return None

    def _build_optimizer(self, inputs: EngineInputs) -> tuple[Optimizer, TransformChain]:
        params = [
            Param(
                name=shard.name,
                weight=view_of(self._masters, offset, shard),
                shape=shard.shape,
                dim=shard.dim,
                grad=view_of(self._master_gradients, offset, shard),
                counted=gradient_clipping.is_counted(shard, self._mesh, sharded_over_data=self._sharded),
            )
            for shard, offset in self._owned
        ]
        ranks = TensorAxisRanks(self._mesh.tensor)
        optimizer = inputs.optimizer.build(params, ranks)
        transforms = TransformChain.build(
            inputs.optimizer.transforms,
            TransformInputs(
                params=params,
                moments=moments_by_parameter(optimizer.state()),
                tensor_ranks=ranks,
                sum_over_ranks=sum_over_world(self._mesh),
                plan=inputs.plan,
            ),
        )
        return TransformedOptimizer(optimizer, transforms, params), transforms

    def _sum_partial_gradients(self) -> None:
        mesh = self._mesh
        partial = [self._gradient_of[shard.name] for shard in self._layout.order if shard.partial]
        if partial:
            flat = torch.cat([gradient.flatten() for gradient in partial])
            dist.all_reduce(flat, group=mesh.tensor.group)
            for gradient, total in zip(partial, flat.split([g.numel() for g in partial]), strict=True):
                gradient.copy_(total.view_as(gradient))
        for shard in self._tied:
            dist.reduce(self._gradient_of[shard.name], group_dst=0, group=mesh.embedding)

    def _send_tied_weight(self) -> None:
        for shard in self._tied:
            dist.broadcast(shard.parameter.data, group_src=0, group=self._mesh.embedding)

    def _reduce_over_data(self) -> None:
        data = self._mesh.data
        if data.size == 1:
            return
        if not self._sharded:
            dist.all_reduce(self._gradients, group=data.group)
            return
        pending = [
            dist.reduce(self._gradients[start:end], group_dst=owner, group=data.group, async_op=True)
            for owner, (start, end) in enumerate(self._layout.segments)
            if end > start
        ]
        wait_for_collectives(pending)

    def _sum_over_world(self, nll: Tensor, squared_norm: Tensor) -> tuple[float, float]:
        """Returns both sums over all ranks. Every tensor rank of the last stage has the same nll: one is counted."""
        if self._mesh.tensor.rank != 0:
            nll = torch.zeros_like(nll)
        sums = torch.stack([nll.double(), squared_norm.double()])
        dist.all_reduce(sums)
        nll_sum, total = sums.tolist()
        return nll_sum, total

    def _clip_and_update(self, lr: float, norm: float) -> None:
        gradient_clipping.clip(self._owned_gradients, norm, self._max_norm)
        if self._master_gradients is not self._owned_gradients:
            self._master_gradients.copy_(self._owned_gradients)
        self._all_gather.gather_as_updated(self._optimizer.step_in_buckets(lr=lr))
        self._send_tied_weight()
